"""A run's config.json and fields.json: reading, comparing and writing them."""

import copy
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import paths, renames, strict_json
from diffusion_jax.data.base import Field, image_field, label_field, shape_text
from diffusion_jax.data.vocabulary import Vocabulary
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)
UNNAMED = "folder:PATH", "folder:PATH_B"  # data.source before the user has set it

CONFIG, FIELDS, CHECKPOINTS = "config.json", "fields.json", "checkpoints"
# The other groups determine what the weights mean: a run cannot go on with another one.
FREE_GROUPS = ("name", "seed", "data", "optim", "train", "sample", "eval")
FREE_KEYS = ("model.dtype", "model.dropout", "model.remat")  # of the same weights
FIXED_VARIANCES = {"fixedsmall", "fixedlarge"}  # the weights do not depend on which
MISSING = "(missing)"  # shown in place of a value

Changes = dict[str, tuple[Any, Any]]  # dotted key -> (value of the run, new value)


def check_keys(config: ConfigDict, keys: Iterable[str]) -> None:
    """Refuses a dotted key that the config does not have.

    Raises:
      ValueError: it names the key, and the ones there are in its place.
    """
    for key in keys:
        group, path = config, []
        for part in key.split("."):
            known = list(group) if isinstance(group, ConfigDict) else []
            if part not in known:
                place = ".".join(["config", *path])
                raise ValueError(
                    f"There is no {part!r} in {place}. Known: {', '.join(known)}."
                    if known
                    else f"{place} is a value, it has no {part!r}."
                )
            path.append(part)
            group = group[part]


def read_config(
    workdir: pathlib.Path, config: ConfigDict, overrides: Mapping[str, Any]
) -> ConfigDict:
    """Reads the config that a run was trained with, and sets values on top of it.

    A value that the file computes from train.num_steps, such as the end of the learning
    rate's decay, follows it if the run is made longer.

    Args:
      workdir: the run's folder.
      config: of the same name; it has the keys that an older version did not know.
      overrides: value by dotted key.

    Raises:
      FileNotFoundError: there is no run in workdir.
      ValueError: config.json is damaged, the run has another config, or a value cannot
        change any more.
    """
    stored = stored_config(workdir).to_dict()
    if stored["name"] != config.name:
        raise ValueError(
            f"The run in {workdir} has the config {stored['name']!r}, not "
            f"{config.name!r}: use that config, or another --workdir."
        )
    found = ConfigDict(_completed(stored, config.to_dict(), workdir / CONFIG))
    before = found.to_dict()
    overrides = _following(found, config, overrides) | overrides
    kept = _changes(config.to_dict(), before | {"name": config.name})
    kept = {  # without what the file leaves open
        key: pair
        for key, pair in kept.items()
        if key not in overrides and pair[0] not in (None, *UNNAMED)
    }
    if kept:
        own = [f"{key} = {x} (file: {file})" for key, (file, x) in kept.items()]
        LOGGER.info(
            "The run in %s keeps the values it was trained with, where the config file "
            "has others: %s.",
            workdir,
            ", ".join(own),
        )
    found.update_from_flattened_dict(overrides)
    _refuse_fixed(_changes(before, found.to_dict()), workdir)
    return found


def complete(
    stored: ConfigDict, defaults: ConfigDict, workdir: pathlib.Path
) -> ConfigDict:
    """Adds to a stored config the keys that its family was given since.

    Args:
      stored: see `stored_config`.
      defaults: the family's config. If model.name differs, only the keys of the group
        model that both have are used.
      workdir: the run's folder, for messages.

    Raises:
      ValueError: a value has a type that cannot be converted.
    """
    old, new = _with_tuples(stored.to_dict()), defaults.to_dict()
    if old["model"].get("name") != new["model"].get("name"):
        shared = old["model"].keys() & new["model"].keys()
        new["model"] = {key: new["model"][key] for key in shared}
    return ConfigDict(_completed(old, new, workdir / CONFIG))


def _with_tuples(value: Any) -> Any:
    """Returns a stored value with tuples, as configs have them, for JSON's lists."""
    if isinstance(value, dict):
        return {key: _with_tuples(x) for key, x in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def compare_config(config: ConfigDict, workdir: pathlib.Path) -> Changes:
    """Compares a config with that of an earlier run in the workdir; writes nothing.

    Returns:
      The values that differ; empty if there is no earlier run.

    Raises:
      ValueError: the earlier run trained something else, or config.json is damaged.
    """
    if not (workdir / CONFIG).exists():
        return {}
    new = config.to_dict()
    stored = stored_config(workdir).to_dict()
    changes = _changes(_completed(stored, new, workdir / CONFIG), new)
    _refuse_fixed(changes, workdir)
    return changes


def write_config(
    config: ConfigDict, fields: Mapping[str, Field], workdir: pathlib.Path
) -> None:
    """Writes config.json and fields.json.

    Args:
      config: of the run.
      fields: of the data.
      workdir: the run's folder, which exists.
    """
    _write(workdir / CONFIG, config.to_dict())
    _write(workdir / FIELDS, {name: _described(x) for name, x in fields.items()})


def _described(field: Field) -> dict[str, Any]:
    """Returns a field as JSON."""
    described = field._replace(dtype=np.dtype(field.dtype).name)._asdict()
    vocabulary = described.pop("vocabulary")
    if vocabulary is not None:
        described["vocabulary"] = dataclasses.asdict(vocabulary)
    return described


def _field(described: dict[str, Any]) -> Field:
    """Returns the field that JSON describes; older versions knew fewer keys."""
    values = {"names": ()} | described
    for key in ("shape", "range", "axes", "names"):
        values[key] = None if values[key] is None else tuple(values[key])
    vocabulary = values.get("vocabulary")
    if vocabulary is not None:
        values["vocabulary"] = Vocabulary(
            vocabulary["kind"],
            tuple(vocabulary["tokens"]),
            tuple(map(tuple, vocabulary["merges"])),
        )
    return Field(**values | {"dtype": np.dtype(values["dtype"]).type})


def has_checkpoints(workdir: pathlib.Path) -> bool:
    """Returns whether there is a run in the workdir that has saved a checkpoint.

    Raises:
      ValueError: there is one, but no config that says what it is.
    """
    folders = (workdir / CHECKPOINTS).glob("*")
    saved = any(x.name.isdigit() and x.is_dir() for x in folders)
    path = workdir / CONFIG
    if saved and not path.exists():
        raise ValueError(
            f"{workdir / CHECKPOINTS} has checkpoints, but {path} is missing: "
            f"{_remedy(path)}."
        )
    return saved


def stored_config(workdir: pathlib.Path) -> ConfigDict:
    """Reads the config that a run was trained with.

    Raises:
      FileNotFoundError: there is no run in workdir.
      ValueError: config.json is damaged, or missing although there are checkpoints.
    """
    path = workdir / CONFIG
    if not path.exists():
        has_checkpoints(workdir)
        raise FileNotFoundError(f"No run in {workdir}: {path} is missing. Train first.")
    stored = _read(path)
    kinds = {"name": str, "method": str, "data": dict}
    if not all(isinstance(stored.get(key), kind) for key, kind in kinds.items()):
        raise _damaged(path, "it is no config")
    try:
        return ConfigDict(renames.rename_stored(stored))
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error


def stored_fields(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Field]:
    """Reads the fields of the data that a run was trained on.

    Runs of versions that wrote no fields.json had images and labels, or points.

    Raises:
      ValueError: fields.json is damaged.
    """
    path = workdir / FIELDS
    if path.exists():
        described = _read(path)
        try:
            return {name: _field(x) for name, x in described.items()}
        except (KeyError, TypeError) as error:
            raise _damaged(path, f"a field lacks a valid {error}") from error
    data = config.data
    if "image_size" not in data:
        raise FileNotFoundError(f"{path} is missing: restore it from a copy.")
    if data.source == "grid25":
        return {"points": Field((2,), np.float32, "points"), "label": label_field(25)}
    width = data.get("image_width") or data.image_size
    image = image_field((data.image_size, width, data.num_channels))
    label = label_field(None)
    if "source_b" in data:
        return {"image_a": image, "label_a": label, "image_b": image, "label_b": label}
    return {"image": image, "label": label}


def class_names(config: ConfigDict, fields: Mapping[str, Field]) -> tuple[str, ...]:
    """Returns the names of the classes that a run is conditioned on, () without names.

    Args:
      config: of the run.
      fields: of its data.
    """
    names = fields["label"].names if "label" in fields else ()
    return names if len(names) == config.model.get("num_classes", 0) else ()


def check_classes(
    config: ConfigDict, fields: Mapping[str, Field], workdir: pathlib.Path
) -> None:
    """Checks that the labels mean what they meant when a run was trained.

    Args:
      config: of the run.
      fields: of the data.
      workdir: the run's folder; it may be new.

    Raises:
      ValueError: the run is conditional, and its classes had other numbers.
    """
    conditional = config.model.get("num_classes", 0) and "label" in fields
    if not conditional or not (workdir / FIELDS).exists():
        return
    names = fields["label"].names
    stored = stored_fields(config, workdir).get("label", label_field(None))
    # Older versions stored no names; they sorted numbers as text.
    known = stored.names or (tuple(sorted(names)) if stored.size == len(names) else ())
    if names and known and names != known:
        changed = [
            f"{i} was {old} and is {new}"
            for i, (old, new) in enumerate(zip(known, names, strict=False))
            if old != new
        ]
        changed = changed or [f"there were {len(known)} and are {len(names)}"]
        raise ValueError(
            f"The classes of {config.data.source} are not those of the run in "
            f"{workdir} ({changed[0]}): rename or restore the folders of the classes, "
            "or use another --workdir."
        )


def check_vocabularies(
    config: ConfigDict, fields: Mapping[str, Field], workdir: pathlib.Path
) -> None:
    """Checks that token ids mean what they meant when a run was trained.

    Args:
      config: of the run.
      fields: of the data.
      workdir: the run's folder; it may be new.

    Raises:
      ValueError: a vocabulary has changed, or the longest caption.
    """
    texts = {name: field for name, field in fields.items() if field.vocabulary}
    if not texts or not (workdir / FIELDS).exists():
        return
    stored = stored_fields(config, workdir)
    # A run on images without captions may go on with captions.
    for name in sorted(texts.keys() & stored.keys()):
        field, known = texts[name], stored[name].vocabulary
        if known == field.vocabulary:
            if name == "caption" and field.shape != stored[name].shape:
                longest, before = field.shape[0] - 1, stored[name].shape[0] - 1
                raise ValueError(
                    f"The longest caption of {config.data.source} has {longest} words, "
                    f"and that of the run in {workdir} {before}: restore the captions "
                    "that it was trained on, or use another --workdir."
                )
            continue
        changed = set(known.tokens) ^ set(field.vocabulary.tokens)
        shown = ", ".join(map(repr, sorted(changed)[:5])) or "order or merges"
        raise ValueError(
            f"The vocabulary of {config.data.source} is not that of the run in "
            f"{workdir} (different: {shown}): restore the text that it was trained on, "
            "or use another --workdir."
        )


def warn_of_other_sizes(
    config: ConfigDict, fields: Mapping[str, Field], workdir: pathlib.Path
) -> None:
    """Warns if a trained model gets images of another size than in training.

    Convolutions accept them, and a conditioning image is resized to the model's. Where
    it gets none, another data.image_size has no effect.

    Args:
      config: of the run.
      fields: of the data.
      workdir: the run's folder.
    """
    stored = stored_fields(config, workdir)
    trained_on = [x.shape for x in stored.values() if x.kind == "image"]
    reads_images = any(field.kind == "image" for field in fields.values())
    side = config.data.get("image_size")
    if trained_on and not reads_images and side not in [x[0] for x in trained_on]:
        LOGGER.warning(
            "data.image_size = %s has no effect: the run in %s draws images of %s.",
            side,
            workdir,
            shape_text(trained_on[0]),
        )
    for name, field in fields.items():
        if field.kind == "image" and name in stored:
            size, trained = (shape_text(x[name].shape) for x in (fields, stored))
            if size != trained:
                LOGGER.warning(
                    "The images %s of %s are %s, and those of %s, on which the run in "
                    "%s was trained, are %s: its results may be wrong.",
                    name,
                    config.data.source,
                    size,
                    stored_config(workdir).data.source,
                    workdir,
                    trained,
                )


def describe(changes: Changes) -> str:
    """Returns "optim.learning_rate: 0.001 -> 0.0005, ..." for messages."""
    return ", ".join(f"{key}: {old} -> {new}" for key, (old, new) in changes.items())


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Changes:
    """Returns the leaves that differ, by dotted key; lists and tuples are the same."""
    changes: Changes = {}
    for key in new | old:
        pair = old.get(key, MISSING), new.get(key, MISSING)
        if all(isinstance(x, dict) for x in pair):
            changes |= _changes(*pair, f"{prefix}{key}.")
        elif json.dumps(pair[0]) != json.dumps(pair[1]):
            changes[prefix + key] = pair
    return changes


def _following(
    found: ConfigDict, config: ConfigDict, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the values that are still as a file computed them from train.num_steps.

    Args:
      found: the values of the run.
      config: of the file, with its references.
      overrides: value by dotted key, perhaps a new number of steps.

    Returns:
      The values for the new number, by dotted key.
    """
    key = "train.num_steps"
    if key not in overrides:
        return {}
    new, old = copy.deepcopy(config), copy.deepcopy(config)
    new.update_from_flattened_dict({key: overrides[key]})
    old.update_from_flattened_dict({key: found.train.num_steps})
    computed = _changes(old.to_dict(), new.to_dict())
    differs = _changes(old.to_dict(), found.to_dict())  # set by hand
    return {x: pair[1] for x, pair in computed.items() if x not in {*differs, key}}


def _refuse_fixed(changes: Changes, workdir: pathlib.Path) -> None:
    """Raises ValueError if a value changes that the weights depend on."""
    fixed = {}
    for key, (old, new) in changes.items():
        free = key.split(".")[0] in FREE_GROUPS or key in FREE_KEYS
        if key == "diffusion.variance":
            free = {old, new} <= FIXED_VARIANCES
        if key == "data.held_out":  # images that were trained on are not held out
            free = new <= old
        if not free:
            fixed[key] = old, new
    if fixed:
        other = ""
        if not has_checkpoints(workdir):
            other = f"; or remove {workdir / CONFIG}, since nothing is trained yet"
        raise ValueError(
            f"The run in {workdir} cannot go on with another config ({describe(fixed)})"
            ": the weights depend on it. Use the config that it was trained with, or "
            f"another --workdir{other}."
        )


def _completed(
    old: dict[str, Any], new: dict[str, Any], path: pathlib.Path, prefix: str = ""
) -> dict[str, Any]:
    """Adds to an older version's config the keys that were introduced since.

    Values get the type that they have in the new config: JSON has no tuples.

    Args:
      old: a stored config, or a group of it.
      new: the config file's.
      path: of the stored config, for messages.
      prefix: of the group's keys.

    Raises:
      ValueError: a value has a type that cannot be converted.
    """
    completed = {}
    for key in old | new:
        current = new.get(key)
        value = old.get(key, renames.IMPLIED.get(prefix + key, current))
        if isinstance(value, dict) and isinstance(current, dict):
            value = _completed(value, current, path, f"{prefix}{key}.")
        elif isinstance(value, list) and isinstance(current, tuple | None):
            value = tuple(value)  # None: the file leaves it open
        elif isinstance(value, int) and isinstance(current, float):
            value = float(value)
        elif None not in (value, current) and type(value) is not type(current):
            kind = "a group" if isinstance(current, dict) else type(current).__name__
            raise _damaged(path, f"{prefix}{key} is {value!r}, not {kind}")
        elif value is None and isinstance(current, dict):
            raise _damaged(path, f"{prefix}{key} is not a group")
        completed[key] = value
    return completed


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict) or not content:
        raise _damaged(path, "it is no JSON object, or an empty one")
    return content


def _damaged(path: pathlib.Path, reason: str) -> ValueError:
    remedy = "train again, which writes it anew, or restore it from a copy"
    if path.name == CONFIG:
        remedy = _remedy(path)
    return ValueError(f"{path} is damaged ({reason}): {remedy}.")


def _remedy(path: pathlib.Path) -> str:
    return (
        "restore it from a copy, or write it again with the command that started the "
        f"run and --mode=config > {path}"
    )


def _write(path: pathlib.Path, content: Any) -> None:
    if parallel.process_index() == 0:
        temporary = path.with_suffix(".tmp")
        with paths.writing(path):
            temporary.write_text(strict_json.dumps(content, indent=2))
            temporary.replace(path)

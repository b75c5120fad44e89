"""A run's config.json and fields.json: reading, comparing and writing them."""

import functools
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import renames
from diffusion_jax.data.base import Field, image_field, label_field
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)

CONFIG, FIELDS = "config.json", "fields.json"
# The other groups determine what the weights mean: a run cannot go on with another one.
FREE_GROUPS = ("name", "seed", "data", "optim", "train", "sample", "eval")
FIXED_VARIANCES = {"fixedsmall", "fixedlarge"}  # the weights do not depend on which


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


def _completed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Adds to an older version's config the keys that were introduced since."""
    return {
        key: _completed(old[key], new[key])
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict)
        else old.get(key, new.get(key))
        for key in old | new
    }


def _to_json(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json())


def _write(path: pathlib.Path, content: Any) -> None:
    if parallel.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2))
        temporary.replace(path)


def write_config(
    config: ConfigDict, fields: Mapping[str, Field], workdir: pathlib.Path
) -> None:
    """Writes config.json and fields.json, and compares with an earlier run's config.

    Args:
      config: of the run.
      fields: of the data.
      workdir: the run's folder.

    Raises:
      ValueError: the earlier run in the workdir trained something else.
    """
    path, new = workdir / CONFIG, _to_json(config)
    if path.exists():
        old = _completed(renames.rename_stored(json.loads(path.read_text())), new)
        changed = [name for name in new | old if new.get(name) != old.get(name)]
        for name in changed:
            LOGGER.warning(
                "Config changed: %s was %s, is %s", name, old.get(name), new.get(name)
            )
        fixed = [name for name in changed if name not in FREE_GROUPS]
        if fixed:
            raise ValueError(
                f"The run in {workdir} does not match the config: {fixed[0]} was "
                f"{old.get(fixed[0])} and is {new.get(fixed[0])}. Use the config that "
                "it was trained with, or another --workdir."
            )
    _write(path, new)
    described = {
        name: field._replace(dtype=np.dtype(field.dtype).name)._asdict()
        for name, field in fields.items()
    }
    _write(workdir / FIELDS, described)


def stored_config(workdir: pathlib.Path) -> ConfigDict:
    """Reads the config that a run was trained with.

    Raises:
      FileNotFoundError: there is no run in workdir.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"No run in {workdir}: {path} is missing. Train first.")
    return ConfigDict(renames.rename_stored(json.loads(path.read_text())))


def stored_fields(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Field]:
    """Reads the fields of the data that a run was trained on.

    Runs of versions that wrote no fields.json had images and labels, or points.
    """
    path = workdir / FIELDS
    if path.exists():
        described = json.loads(path.read_text())
        for field in described.values():
            field["dtype"] = np.dtype(field["dtype"]).type
            for key in ("shape", "range", "axes"):
                field[key] = None if field[key] is None else tuple(field[key])
        return {name: Field(**field) for name, field in described.items()}
    data = config.data
    if data.source == "grid25":
        return {"points": Field((2,), np.float32, "points"), "label": label_field(25)}
    image = image_field((data.image_size, data.image_size, data.num_channels))
    label = label_field(None)
    if "source_b" in data:
        return {"image_a": image, "label_a": label, "image_b": image, "label_b": label}
    return {"image": image, "label": label}


def read_config(
    workdir: pathlib.Path, config: ConfigDict, overrides: Mapping[str, Any]
) -> ConfigDict:
    """Reads the config that a run was trained with, and sets values on top of it.

    Args:
      workdir: the run's folder.
      config: of the same name; it has the keys that an older version did not know.
      overrides: value by dotted key.

    Raises:
      FileNotFoundError: there is no run in workdir.
      ValueError: the run has another config, or a value cannot change any more.
    """
    stored = stored_config(workdir)
    if stored.name != config.name:
        raise ValueError(
            f"The run in {workdir} has the config {stored.name!r}, not {config.name!r}."
        )
    config = ConfigDict(_completed(_to_json(stored), _to_json(config)))
    for key, value in overrides.items():
        if key.split(".")[0] in FREE_GROUPS:
            continue
        old = functools.reduce(lambda node, part: node[part], key.split("."), config)
        value = json.loads(json.dumps(value))  # as it was written: tuples are lists
        free = key == "diffusion.variance" and {old, value} <= FIXED_VARIANCES
        if old != value and not free:
            raise ValueError(
                f"config.{key} cannot change after training: the weights in {workdir} "
                "depend on it."
            )
    config.update_from_flattened_dict(overrides)
    return config

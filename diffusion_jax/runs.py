"""A run's folder, as the three commands share it: its config, data and weights."""

import functools
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from diffusion_jax import methods
from diffusion_jax.data import sources
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.checkpoints import Checkpoints
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
# The other groups say what the weights mean: a run in the same workdir cannot go on
# with another.
FREE_GROUPS = ("name", "seed", "data", "optim", "train", "sample", "eval")
FIXED_VARIANCES = {"fixedsmall", "fixedlarge"}  # of these, no weight knows which


def check_keys(config: ml_collections.ConfigDict, keys: Iterable[str]) -> None:
    """Refuses, in words, a dotted key that the config does not have.

    Raises:
      ValueError: it names the key and the known ones beside it.
    """
    for key in keys:
        group, path = config, []
        for part in key.split("."):
            known = list(group) if isinstance(group, ml_collections.ConfigDict) else []
            if part not in known:
                place = ".".join(["config", *path])
                raise ValueError(
                    f"There is no {part!r} in {place}. Known: {', '.join(known)}."
                    if known
                    else f"{place} is a value, it has no {part!r}."
                )
            path.append(part)
            group = group[part]


def write_config(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes config.json; compares it with that of an earlier run in the workdir.

    Raises:
      ValueError: the earlier run trained something else.
    """
    path = workdir / CONFIG
    text = config.to_json(indent=2)
    if path.exists():
        new = json.loads(text)
        old = _completed(json.loads(path.read_text()), new)
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
    if parallel.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)


def stored_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the config that a run was trained with.

    Raises:
      FileNotFoundError: there is no run in workdir.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"No run in {workdir}: {path} is missing. Train first.")
    return ml_collections.ConfigDict(json.loads(path.read_text()))


def _completed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Adds to an older version's config what has since become a key, as it is now."""
    return {
        key: _completed(old[key], new[key])
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict)
        else old.get(key, new.get(key))
        for key in old | new
    }


def read_config(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    overrides: Mapping[str, Any],
) -> ml_collections.ConfigDict:
    """Reads the config that a run was trained with, and sets values on top of it.

    Args:
      workdir: the run's folder.
      config: of the same name; it has the keys that an older version did not know.
      overrides: value by dotted key.

    Raises:
      FileNotFoundError: there is no run in workdir.
      ValueError: the run is of another config, or a value cannot change any more.
    """
    stored = stored_config(workdir)
    if stored.name != config.name:
        raise ValueError(
            f"The run in {workdir} is of the config {stored.name!r}, not "
            f"{config.name!r}."
        )
    new = json.loads(config.to_json())
    config = ml_collections.ConfigDict(_completed(json.loads(stored.to_json()), new))
    for key, value in overrides.items():
        if key.split(".")[0] in FREE_GROUPS:
            continue
        old = functools.reduce(lambda node, part: node[part], key.split("."), config)
        value = json.loads(json.dumps(value))  # as it was written: tuples are lists
        free = key == "diffusion.variance" and {old, value} <= FIXED_VARIANCES
        if old != value and not free:
            raise ValueError(
                f"config.{key} belongs to the training of the weights in {workdir}; "
                "another value would make noise of them."
            )
    config.update_from_flattened_dict(overrides)
    return config


def open_train(config: ml_collections.ConfigDict) -> sources.Source | sources.Unpaired:
    """Opens what the config trains on: data.train_split, of two domains both.

    Raises:
      FileNotFoundError: the data are not there.
      ValueError: they are not what the config says.
    """
    data = config.data
    split_b = data.train_split_b if "source_b" in data else None
    return _open_source(config, data.train_split, split_b)


def open_held_out(
    config: ml_collections.ConfigDict,
) -> sources.Source | sources.Unpaired:
    """Opens what the config measures on: eval.split, of two domains both.

    Raises:
      FileNotFoundError: the data are not there.
      ValueError: they are not what the config says.
    """
    split_b = config.eval.split_b if "source_b" in config.data else None
    return _open_source(config, config.eval.split, split_b)


def _open_source(
    config: ml_collections.ConfigDict, split: str, split_b: str | None
) -> sources.Source | sources.Unpaired:
    data = config.data

    def opened(source: str, split: str) -> sources.Source:
        shape = data.image_size, data.num_channels
        return sources.make(source, split, *shape, data.data_dir)

    if split_b is not None:
        return sources.Unpaired(
            opened(data.source, split), opened(data.source_b, split_b)
        )
    source = opened(data.source, split)
    num_classes = config.model.num_classes if "num_classes" in config.model else 0
    if num_classes and (source.num_classes or 0) > num_classes:
        raise ValueError(
            f"{data.source} has {source.num_classes} classes, and model.num_classes is "
            f"{num_classes}: make it as many, or 0 for a network that is told no class."
        )
    in_memory = isinstance(source, sources.ArraySource)
    if num_classes and in_memory and len(np.unique(source.labels)) == 1:
        raise ValueError(
            f"Every label of {data.source} is {source.labels[0]}, and "
            f"model.num_classes is {num_classes}: there is nothing to tell apart. "
            "Choose data with labels."
        )
    return source


def load(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, checkpoint: str
) -> tuple[methods.Method, TrainState]:
    """Returns a trained method and its state, settled.

    Args:
      config: of the run.
      workdir: the run's folder.
      checkpoint: "last" or "best".

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the checkpoint belongs to another model.
    """
    method = methods.make(config)
    initial = functools.partial(states.initial, phases=method.phases, init=method.init)
    template = jax.eval_shape(initial, jax.random.key(0))
    checkpoints = Checkpoints(workdir / CHECKPOINTS, read_only=True)
    state = checkpoints.restore_trained(template, checkpoint)
    return method, methods.make_settle(method)(state)

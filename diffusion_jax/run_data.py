"""Opens the data that a config names, for training and for evaluation."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import methods
from diffusion_jax.data import pairs, sources, texts
from diffusion_jax.data.base import (
    ArraySource,
    LazySource,
    Source,
    Unpaired,
    label_field,
)
from diffusion_jax.lookup import lookup


def open_train(config: ConfigDict) -> Source:
    """Opens the training data: data.train_split, of both domains if there are two.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: they are not what the config says.
    """
    data = config.data
    split_b = data.train_split_b if "source_b" in data else None
    return _open_source(config, data.train_split, split_b)


def open_held_out(config: ConfigDict) -> Source:
    """Opens the evaluation data: eval.split, of both domains if there are two.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: they are not what the config says.
    """
    split_b = config.eval.split_b if "source_b" in config.data else None
    return _open_source(config, config.eval.split, split_b)


def open_domain(config: ConfigDict, domain: str) -> Source:
    """Opens the evaluation data of one domain of two; the other one may be missing.

    Args:
      config: of a family with two domains.
      domain: "a" or "b".

    Returns:
      A source whose fields have the suffix of the domain, as those of both have.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: they are not what the config says.
    """
    suffix = "" if domain == "a" else "_b"
    source, split = config.data[f"source{suffix}"], config.eval[f"split{suffix}"]
    one = _open_one(config, source, split)

    def named(values: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{name}_{domain}": value for name, value in values.items()}

    return LazySource(len(one), lambda i: named(one[i]), named(one.fields), source)


def forget() -> None:
    """Forgets what has been opened; every command begins with it.

    Within a command a source is opened once, however many of its parts use it.
    """
    _opened.cache_clear()


@functools.lru_cache(maxsize=8)
def _opened(make: Callable, *arguments: Any) -> Any:
    return make(*arguments)


def _images(check_files: bool, *arguments: Any) -> Source:
    source = sources.make(*arguments)
    if check_files:
        sources.check_all(source)
    return source


def _spec(make: type, data: ConfigDict) -> Any:
    """Makes a dataclass of the values that the group data has under its names."""
    return make(**{field.name: data[field.name] for field in dataclasses.fields(make)})


def _open_source(config: ConfigDict, split: str, split_b: str | None) -> Source:
    family = lookup(methods.FAMILIES, config.method, "method")
    return OPENERS[family.data](config, split, split_b)


def _open_text(config: ConfigDict, split: str, split_b: str | None) -> Source:
    spec = _spec(texts.TextSpec, config.data)
    return _opened(texts.make, config.data.source, split, spec)


def _open_pairs(config: ConfigDict, split: str, split_b: str | None) -> Source:
    spec = _spec(pairs.PairSpec, config.data)
    splits = _opened(pairs.make, config.data.source, spec)
    return lookup(splits, split, f"split of {config.data.source}")


def _open_one(config: ConfigDict, source: str, split: str) -> Source:
    """Opens a split of one source of images."""
    data = config.data
    return _opened(
        _images,
        data.check_files,
        source,
        split,
        (data.image_size, data.image_width or data.image_size),
        data.num_channels,
        data.data_dir,
        data.background,
        data.held_out,
        data.on_error,
    )


def _open_images(config: ConfigDict, split: str, split_b: str | None) -> Source:
    data = config.data
    if split_b is not None:
        return Unpaired(
            _open_one(config, data.source, split),
            _open_one(config, data.source_b, split_b),
        )
    source = _open_one(config, data.source, split)
    num_classes = config.model.get("num_classes", 0)
    if not num_classes:
        return source
    found = source.fields["label"].size
    if found is None:  # Labels are checked when they are read.
        label = {"label": label_field(num_classes)}
        return LazySource(
            len(source),
            source.__getitem__,
            {**source.fields, **label},
            data.source,
            source.identities,
        )
    if found > num_classes:
        raise ValueError(
            f"{data.source} has {found} classes, and model.num_classes is "
            f"{num_classes}: make them equal, or use 0 for an unconditional network."
        )
    labels = source.arrays["label"] if isinstance(source, ArraySource) else np.arange(2)
    if found == 1 or np.ptp(labels) == 0:
        raise ValueError(
            f"Every label of {data.source} is {labels[0]}, and "
            f"model.num_classes is {num_classes}: there is nothing to learn. Choose "
            "data with labels."
        )
    return source


OPENERS = {"images": _open_images, "text": _open_text, "pairs": _open_pairs}

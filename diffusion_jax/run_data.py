"""Opens the data that a config names, for training and for evaluation."""

import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

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


def forget() -> None:
    """Forgets what has been opened; every command begins with it.

    Within a command a source is opened once, however many of its parts use it.
    """
    _opened_images.cache_clear()
    _opened_text.cache_clear()
    _opened_pairs.cache_clear()


@functools.lru_cache(maxsize=8)
def _opened_images(check_files: bool, *arguments: Any) -> Source:
    source = sources.make(*arguments)
    if check_files:
        sources.check_all(source)
    return source


_opened_text = functools.lru_cache(maxsize=8)(texts.make)
_opened_pairs = functools.lru_cache(maxsize=2)(pairs.make)


def _open_text(config: ConfigDict, split: str) -> Source:
    data = config.data
    spec = texts.TextSpec(
        data.context,
        data.vocabulary,
        data.vocabulary_size,
        data.packed,
        data.held_out,
    )
    return _opened_text(data.source, split, spec)


def _open_pairs(config: ConfigDict, split: str) -> Source:
    data = config.data
    spec = pairs.PairSpec(
        data.vocabulary,
        data.target_vocabulary,
        data.vocabulary_size,
        data.shared_vocabulary,
        data.max_length,
        data.held_out,
    )
    return lookup(_opened_pairs(data.source, spec), split, f"split of {data.source}")


def _open_source(config: ConfigDict, split: str, split_b: str | None) -> Source:
    data = config.data
    if "context" in data:
        return _open_text(config, split)
    if "target_vocabulary" in data:
        return _open_pairs(config, split)

    def opened(source: str, split: str) -> Source:
        return _opened_images(
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

    if split_b is not None:
        return Unpaired(opened(data.source, split), opened(data.source_b, split_b))
    source = opened(data.source, split)
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

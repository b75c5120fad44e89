"""What a measure is, and what several of them need."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from diffusion_jax import runs
from diffusion_jax.data import sources, transforms
from diffusion_jax.data.loader import Loader
from diffusion_jax.training.state import TrainState

MAX_VALUES = 4096  # in a picture whose covariance is taken: a matrix of that side


class Record(NamedTuple):
    """What was measured, and how.

    Attributes:
      found: figures by name; the first is the score, less is better.
      settings: what they depend on.
    """

    found: dict[str, Any]
    settings: dict[str, Any]


# A settled state -> records: one, or one for each way of drawing in eval.sweep.
Measure = Callable[[TrainState], Iterator[Record]]


def epoch(config: ml_collections.ConfigDict) -> Iterator[dict[str, np.ndarray]]:
    """Yields eval.split once, in batches."""
    source = runs.open_held_out(config)
    return Loader(source, config.eval.batch_size, 0).epoch()


def over_epoch(
    run: Callable[[TrainState, dict], dict[str, np.ndarray]],
    state: TrainState,
    config: ml_collections.ConfigDict,
    kept: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Measures every example of eval.split; returns all, [N, ...], and beside them
    those arrays of the batches that are to be kept."""
    rows = []
    for batch in epoch(config):
        measured = run(state, batch) | {name: batch[name] for name in kept}
        rows.append({name: x[batch["weight"] > 0] for name, x in measured.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def read(source: sources.Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [n,H,W,C] as networks see them, f32, and their labels i32[n]."""
    batch = sources.read(source, indices)
    return transforms.to_input(batch["image"]), batch["label"]


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of [N], and its standard error over the examples."""
    values = values.astype(np.float64)
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def check_held_out(config: ml_collections.ConfigDict) -> None:
    """Refuses a measure on what was trained on.

    Raises:
      ValueError: eval.split is data.train_split.
    """
    if config.eval.split == config.data.train_split:
        raise ValueError(
            f"eval.split and data.train_split are both {config.eval.split!r}: real "
            "pictures have to be held out for this measure."
        )

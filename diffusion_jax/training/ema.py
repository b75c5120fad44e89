"""Exponential moving average of parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

PyTree = Any


def make_decay(decay: float, warmup: bool) -> Callable[[Array], Array]:
    """Makes the decay as a function of the number of steps done before this one.

        0 at the first step (which copies the parameters), then decay;
        with warmup min(decay, step / (step + 9)), for short runs

    Args:
      decay: in [0, 1); 0.9999 in the paper, a half-life of 6931 steps.
      warmup: whether the decay increases gradually.

    Raises:
      ValueError: decay lies outside [0, 1).

    Source: Ho et al. 2020, appendix B; the warmup is TensorFlow's num_updates.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"optim.ema_decay must lie in [0, 1), not {decay}.")
    if warmup:
        return lambda step: jnp.minimum(decay, step / (step + 9.0))
    return lambda step: jnp.where(step == 0, 0.0, decay)


def update(ema: PyTree, params: PyTree, decay: Array) -> PyTree:
    """Updates the average: ema <- ema + (1 - decay) (params - ema)."""
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), ema, params)

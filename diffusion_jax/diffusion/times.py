"""Times: knots for sampling, and draws for training."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array


def leading(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Every (T // n)-th time from 1 up: 1, 1 + T//n, 1 + 2 (T//n), ...

    Args:
      num_timesteps: T.
      num_steps: n, at most T.

    Returns:
      [n], falling, the last one 1. Where n does not divide T, the first one is well
      below T, where x_T is not yet pure noise: prefer "trailing" there.

    Source: Song et al. 2021, appendix D.3 ("linear"), arXiv:2010.02502.
    """
    return np.arange(num_steps)[::-1] * (num_timesteps // num_steps) + 1


def trailing(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Evenly down from T: T, T - T/n, ..., T/n, rounded: [n], falling.

    Source: Lin et al. 2024, table 2, arXiv:2305.08891.
    """
    return np.round(num_timesteps * np.arange(num_steps, 0, -1) / num_steps)


def quadratic(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Squares from 0 to 0.8 T, close together near the data: [n], falling.

        t_i = 1 + max(i, floor(0.8 T (i / (n - 1))^2)),  i = n - 1, ..., 0

    From some 30 steps on squares would meet near 0 and the network be called twice at
    one time, as in the authors' code: i keeps them apart.

    Source: Song et al. 2021, appendix D.3 ("quadratic", used for CIFAR-10).
    """
    i = np.arange(num_steps)[::-1]
    squares = 0.8 * num_timesteps * np.square(i / max(num_steps - 1, 1))
    return np.maximum(i, np.floor(squares + 1e-9)) + 1


def knots(spacing: str, num_timesteps: int, num_steps: int) -> np.ndarray:
    """The times at which a sampler calls the network, last to first.

    Args:
      spacing: a name of SPACINGS.
      num_timesteps: T.
      num_steps: n, in 1..T.

    Returns:
      i32[n], falling, each in 1..T.

    Raises:
      ValueError: the name is unknown, n lies outside 1..T, or times would repeat.
    """
    if spacing not in SPACINGS:
        raise ValueError(
            f"Unknown spacing {spacing!r}. Known ones: {', '.join(SPACINGS)}."
        )
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps must lie in 1..{num_timesteps} (num_timesteps), "
            f"not {num_steps}."
        )
    times = SPACINGS[spacing](num_timesteps, num_steps).astype(np.int32)
    if np.any(np.diff(times) >= 0):
        raise ValueError(
            f"{num_steps} steps with {spacing!r} spacing would visit some of the "
            f"{num_timesteps} times twice: use fewer steps, or spacing 'leading'."
        )
    return times


def uniform_times(keys: Array, num_timesteps: int) -> Array:
    """t ~ Uniform{1, ..., T}, one for each of the keys [B]: i32[B].

    Source: Ho et al. 2020, algorithm 1, line 3, arXiv:2006.11239.
    """
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, num_timesteps + 1))(keys)


SPACINGS: dict[str, Callable[[int, int], np.ndarray]] = {
    "leading": leading,
    "trailing": trailing,
    "quadratic": quadratic,
}

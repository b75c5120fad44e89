"""Timesteps of a sampler: where each of its steps begins, noisiest first."""

from collections.abc import Callable

import jax
import numpy as np

from diffusion_jax.diffusion.schedules import Schedule


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

    Pure noise does not fit where a schedule leaves signal at 0.8 T, as cosine does.

    From some 30 steps on squares would meet near 0 and the network be called twice at
    one time, as in the authors' code: i keeps them apart.

    Source: Song et al. 2021, appendix D.3 ("quadratic", used for CIFAR-10).
    """
    i = np.arange(num_steps)[::-1]
    squares = 0.8 * num_timesteps * np.square(i / max(num_steps - 1, 1))
    return np.maximum(i, np.floor(squares + 1e-9)) + 1


def logsnr(schedule: Schedule, num_steps: int) -> np.ndarray:
    """Evenly spaced in log-SNR from T to 1: [n], falling, real.

    Source: Lu et al. 2022, section 3.3 (uniform in lambda), arXiv:2206.00927.
    """
    last, first = _ends(schedule)
    return _times_of(schedule, np.linspace(last, first, num_steps))


def karras(schedule: Schedule, num_steps: int, rho: float = 7.0) -> np.ndarray:
    """Noise over signal, to the power 1/rho, evenly spaced from T to 1: [n], real.

        level_i = (level_T^(1/rho) + i/(n-1) (level_1^(1/rho) - level_T^(1/rho)))^rho

    Source: Karras et al. 2022, equation 5, arXiv:2206.00364.
    """
    ends = np.exp(-0.5 * np.array(_ends(schedule))) ** (1 / rho)
    return _times_of(schedule, -2 * rho * np.log(np.linspace(*ends, num_steps)))


def _ends(schedule: Schedule) -> tuple[float, float]:
    with jax.enable_x64(True):
        last, first = (float(schedule(t)) for t in (schedule.num_timesteps, 1))
    if last == -np.inf:
        raise ValueError(
            "This spacing is even in the noise level, and the schedule ends in pure "
            "noise, infinitely far away: choose spacing leading, trailing or quadratic."
        )
    return last, first


def _times_of(schedule: Schedule, levels: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        times = np.array(schedule.time(levels))
    times[0] = schedule.num_timesteps
    if len(times) > 1:
        times[-1] = 1
    return times


def make(spacing: str, schedule: Schedule, num_steps: int) -> np.ndarray:
    """The times at which a sampler calls the network, last to first.

    Args:
      spacing: a name of SPACINGS.
      schedule: log-SNR of time.
      num_steps: n, in 1..T.

    Returns:
      i32[n] of whole times, or f64[n] of real ones; falling, each in [1, T].

    Raises:
      ValueError: the name is unknown, n lies outside 1..T, times would repeat, or the
        spacing has no meaning for the schedule.
    """
    if spacing not in SPACINGS:
        raise ValueError(
            f"Unknown spacing {spacing!r}. Known ones: {', '.join(SPACINGS)}."
        )
    num_timesteps = schedule.num_timesteps
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps must lie in 1..{num_timesteps} (num_timesteps), "
            f"not {num_steps}."
        )
    times = SPACINGS[spacing](schedule, num_steps)
    if spacing not in CONTINUOUS_SPACINGS:
        times = times.astype(np.int32)
    # As the device holds them: real times near T of a steep schedule may coincide.
    if np.any(np.diff(times.astype(np.float32)) >= 0):
        raise ValueError(
            f"{num_steps} steps with {spacing!r} spacing would visit some of the "
            f"{num_timesteps} times twice: use fewer steps, or spacing 'leading'."
        )
    return times


# (schedule, n) -> n falling times.
SPACINGS: dict[str, Callable[[Schedule, int], np.ndarray]] = {
    "leading": lambda schedule, n: leading(schedule.num_timesteps, n),
    "trailing": lambda schedule, n: trailing(schedule.num_timesteps, n),
    "quadratic": lambda schedule, n: quadratic(schedule.num_timesteps, n),
    "logsnr": logsnr,
    "karras": karras,
}
CONTINUOUS_SPACINGS = ("logsnr", "karras")

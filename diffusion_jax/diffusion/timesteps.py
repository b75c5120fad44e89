"""A sampler's timesteps: the times at which it calls the network, noisiest first."""

from collections.abc import Callable

import jax
import numpy as np

from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.lookup import lookup


def leading(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Every (T // n)-th time starting from 1: 1, 1 + T//n, 1 + 2 (T//n), ...

    Args:
      num_timesteps: T.
      num_steps: n, at most T.

    Returns:
      [n], decreasing, ending at 1. If n does not divide T, the first one is well below
      T, where x_T is not yet pure noise: prefer "trailing" then.

    Source: Song et al. 2021, appendix D.3 ("linear"), arXiv:2010.02502.
    """
    return np.arange(num_steps)[::-1] * (num_timesteps // num_steps) + 1


def trailing(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Evenly spaced, starting from T: T, T - T/n, ..., T/n, rounded: [n], decreasing.

    Source: Lin et al. 2024, table 2, arXiv:2305.08891.
    """
    return np.round(num_timesteps * np.arange(num_steps, 0, -1) / num_steps)


def quadratic(num_timesteps: int, num_steps: int) -> np.ndarray:
    """Squares from 0 to 0.8 T, densest near the data: [n], decreasing.

        t_i = 1 + max(i, floor(0.8 T (i / (n - 1))^2)),  i = n - 1, ..., 0

    Sampling starts from pure noise at 0.8 T, which is wrong for a schedule with signal
    left there, such as cosine.

    From about 30 steps on, rounded squares would coincide near 0 and the authors' code
    calls the network twice at one time; the max with i keeps them distinct.

    Source: Song et al. 2021, appendix D.3 ("quadratic", used for CIFAR-10).
    """
    i = np.arange(num_steps)[::-1]
    squares = 0.8 * num_timesteps * np.square(i / max(num_steps - 1, 1))
    return np.maximum(i, np.floor(squares + 1e-9)) + 1


def logsnr(schedule: Schedule, num_steps: int) -> np.ndarray:
    """Evenly spaced in log-SNR from T to 1: [n], decreasing, continuous.

    Source: Lu et al. 2022, section 3.3 (uniform in lambda), arXiv:2206.00927.
    """
    last, first = _ends(schedule)
    return _times(schedule, np.linspace(last, first, num_steps))


def karras(schedule: Schedule, num_steps: int, rho: float = 7.0) -> np.ndarray:
    """Evenly spaced in (sigma / alpha)^(1/rho) from T to 1: [n], continuous.

        level_i = (level_T^(1/rho) + i/(n-1) (level_1^(1/rho) - level_T^(1/rho)))^rho

    Source: Karras et al. 2022, equation 5, arXiv:2206.00364.
    """
    ends = np.exp(-0.5 * np.array(_ends(schedule))) ** (1 / rho)
    return _times(schedule, -2 * rho * np.log(np.linspace(*ends, num_steps)))


def _ends(schedule: Schedule) -> tuple[float, float]:
    with jax.enable_x64(True):
        last, first = (float(schedule(t)) for t in (schedule.num_timesteps, 1))
    if last == -np.inf:
        raise ValueError(
            "sample.spacing logsnr and karras are even in the noise level, which is "
            "infinite at T for a schedule that ends in pure noise: use leading, "
            "trailing or quadratic."
        )
    return last, first


def _times(schedule: Schedule, logsnrs: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        times = np.array(schedule.time(logsnrs))
    times[0] = schedule.num_timesteps
    if len(times) > 1:
        times[-1] = 1
    return times


def make(spacing: str, schedule: Schedule, num_steps: int) -> np.ndarray:
    """Computes the timesteps of a sampler.

    Args:
      spacing: a name in SPACINGS.
      schedule: log-SNR as a function of time.
      num_steps: n, in 1..T.

    Returns:
      i32[n] for discrete times, or f64[n] for continuous ones; decreasing, in [1, T].

    Raises:
      ValueError: the spacing is unknown or undefined for the schedule, n lies outside
        1..T, or timesteps would repeat.
    """
    place = lookup(SPACINGS, spacing, "sample.spacing")
    num_timesteps = schedule.num_timesteps
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"sample.num_steps must lie in 1..{num_timesteps} (num_timesteps), "
            f"not {num_steps}."
        )
    times = place(schedule, num_steps)
    if spacing not in CONTINUOUS_SPACINGS:
        times = times.astype(np.int32)
    # In the device's precision: times near T of a steep schedule may coincide.
    if np.any(np.diff(times.astype(np.float32)) >= 0):
        raise ValueError(
            f"sample.spacing {spacing!r} hardly works with this diffusion.schedule, "
            "whose noise level rises so steeply at T that "
            f"sample.num_steps = {num_steps} would visit the same time twice: choose "
            "sample.spacing 'trailing' or 'leading'."
        )
    return times


# (schedule, n) -> n decreasing times.
SPACINGS: dict[str, Callable[[Schedule, int], np.ndarray]] = {
    "leading": lambda schedule, n: leading(schedule.num_timesteps, n),
    "trailing": lambda schedule, n: trailing(schedule.num_timesteps, n),
    "quadratic": lambda schedule, n: quadratic(schedule.num_timesteps, n),
    "logsnr": logsnr,
    "karras": karras,
}
CONTINUOUS_SPACINGS = ("logsnr", "karras")

"""Noise schedules: tables of beta, alpha_bar, and log-SNR as a function of time.

Time runs 0..T, and 0 is clean data. A table of T betas holds beta_t at index t - 1.
Everything here is float64 on the host, until `from_betas` makes the function that
runs on the device.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

Schedule = Callable[[Array], Array]  # integer time -> log-SNR, of the same shape

BETA_FIRST = 1e-4
BETA_LAST = 0.02


def linear(
    num_timesteps: int, first: float = BETA_FIRST, last: float = BETA_LAST
) -> np.ndarray:
    """Variances that grow linearly.

        beta_t = first + (last - first) (t - 1) / (T - 1)

    Args:
      num_timesteps: T.
      first: beta_1.
      last: beta_T.

    Returns:
      f64[T].

    Source: Ho et al. 2020, section 4, arXiv:2006.11239.
    """
    return np.linspace(first, last, num_timesteps, dtype=np.float64)


def quad(
    num_timesteps: int, first: float = BETA_FIRST, last: float = BETA_LAST
) -> np.ndarray:
    """Variances whose square roots grow linearly: f64[T].

    Source: the authors' code for Ho et al. 2020.
    """
    return linear(num_timesteps, first**0.5, last**0.5) ** 2


def const(num_timesteps: int, last: float = BETA_LAST) -> np.ndarray:
    """The same variance at all times: f64[T].

    Source: the authors' code for Ho et al. 2020.
    """
    return np.full(num_timesteps, last, dtype=np.float64)


def jsd(num_timesteps: int) -> np.ndarray:
    """beta_t = 1 / (T - t + 1), from 1/T to 1: f64[T]; x_T is pure noise.

    Source: Sohl-Dickstein et al. 2015, section 2.4.1, arXiv:1503.03585.
    """
    return 1.0 / np.arange(num_timesteps, 0, -1, dtype=np.float64)


def warmup(
    num_timesteps: int,
    fraction: float,
    first: float = BETA_FIRST,
    last: float = BETA_LAST,
) -> np.ndarray:
    """Linear over the first fraction of the times, then constant: f64[T].

    Source: the authors' code for Ho et al. 2020 (warmup10 and warmup50).
    """
    betas = const(num_timesteps, last)
    num_warmup = int(num_timesteps * fraction)
    betas[:num_warmup] = linear(num_warmup, first, last)
    return betas


def cosine(
    num_timesteps: int, offset: float = 0.008, max_beta: float = 0.999
) -> np.ndarray:
    """Variances whose alpha_bar is a squared cosine.

        f(t) = cos^2((t/T + s) / (1 + s) pi/2)
        beta_t = min(1 - f(t) / f(t - 1), max_beta)

    Args:
      num_timesteps: T.
      offset: s, which keeps beta_1 from vanishing.
      max_beta: the cap that keeps the last beta below 1.

    Returns:
      f64[T].

    Source: Nichol and Dhariwal 2021, equation 17, arXiv:2102.09672.
    """
    times = np.arange(num_timesteps + 1, dtype=np.float64) / num_timesteps
    f = np.cos((times + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], max_beta)


def alpha_bar(betas: np.ndarray) -> np.ndarray:
    """The share of the signal's variance that is left.

        alpha_bar_t = prod_{s <= t} (1 - beta_s)

    Args:
      betas: [T], each in (0, 1].

    Returns:
      f64[T], alpha_bar_t at index t - 1.

    Source: Ho et al. 2020, above equation 4.
    """
    return np.cumprod(1.0 - np.asarray(betas, np.float64))


def from_betas(betas: np.ndarray) -> Schedule:
    """Turns a table of variances into a log-SNR of integer time.

        logsnr(t) = log(alpha_bar_t / (1 - alpha_bar_t)),  logsnr(0) = +inf

    A last beta of 1 is pure noise at T: logsnr(T) = -inf.

    Args:
      betas: [T], each in (0, 1), the last one in (0, 1]; host float64, outside jit.

    Returns:
      A function of integer time t in 0..T, any shape, to log-SNR of that shape.

    Raises:
      ValueError: betas is not a table, or a beta lies outside its range.

    Source: Kingma et al. 2021, section 3.1, arXiv:2107.00630.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0:
        raise ValueError(f"betas must be a table of shape [T], not {betas.shape}.")
    inside = (betas > 0) & (betas < 1)
    inside[-1] |= betas[-1] == 1
    if not inside.all():
        t = int(np.argmin(inside)) + 1
        raise ValueError(
            f"beta_{t} = {betas[t - 1]} lies outside (0, 1); only the last beta "
            f"(beta_{betas.size}) may be 1."
        )
    remaining = alpha_bar(betas)
    with np.errstate(divide="ignore"):  # log(0) = -inf is meant
        table = np.append(np.inf, np.log(remaining) - np.log1p(-remaining))

    def logsnr(t: Array) -> Array:
        return jnp.asarray(table, jnp.result_type(float))[t]

    return logsnr


def make(name: str, num_timesteps: int) -> Schedule:
    """Builds the schedule of that name with T = num_timesteps.

    Raises:
      ValueError: the name is unknown, or there are no times.
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"Unknown schedule {name!r}. Known ones: {', '.join(SCHEDULES)}."
        )
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, not {num_timesteps}.")
    return from_betas(SCHEDULES[name](num_timesteps))


SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "linear": linear,
    "quad": quad,
    "const": const,
    "jsd": jsd,
    "warmup10": functools.partial(warmup, fraction=0.1),
    "warmup50": functools.partial(warmup, fraction=0.5),
    "cosine": cosine,
}

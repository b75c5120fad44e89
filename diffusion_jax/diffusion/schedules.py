"""Noise schedules: log-SNR as a function of time, from a table or a formula.

Time runs 0..T, and 0 is clean data; non-integer times must be at least 1. A table of T
betas holds beta_t at index t - 1, in float64 on the host; `from_betas` turns it into
functions that run on the device.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion_jax.lookup import lookup

BETA_FIRST = 1e-4
BETA_LAST = 0.02


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The noise level at each time: schedule(t) is the log-SNR.

    Attributes:
      logsnr: time, 0 or in [1, T], integer or float, any shape -> log-SNR of the same
        shape, decreasing from +inf at 0.
      time: its inverse, log-SNR -> float time; values out of range map to the nearest
        time with a finite log-SNR, +inf to 0, and -inf to T.
      num_timesteps: T.
      ends_in_noise: whether x_T is pure noise, logsnr(T) = -inf.
    """

    logsnr: Callable[[ArrayLike], Array]
    time: Callable[[ArrayLike], Array]
    num_timesteps: int
    ends_in_noise: bool = False

    def __call__(self, t: ArrayLike) -> Array:
        """Returns the log-SNR at time t."""
        return self.logsnr(t)


def linear(
    num_timesteps: int, first: float = BETA_FIRST, last: float = BETA_LAST
) -> np.ndarray:
    """Linearly increasing variances.

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
    """Variances whose square roots increase linearly: f64[T].

    Source: the authors' code for Ho et al. 2020.
    """
    return linear(num_timesteps, first**0.5, last**0.5) ** 2


def const(num_timesteps: int, last: float = BETA_LAST) -> np.ndarray:
    """A constant variance: f64[T].

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
    """Linear over the first fraction of times, then constant: f64[T].

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
      offset: s, which prevents a vanishing beta_1.
      max_beta: an upper limit, which keeps the last beta below 1.

    Returns:
      f64[T].

    Source: Nichol and Dhariwal 2021, equation 17, arXiv:2102.09672.
    """
    times = np.arange(num_timesteps + 1, dtype=np.float64) / num_timesteps
    f = np.cos((times + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], max_beta)


def alpha_bar(betas: np.ndarray) -> np.ndarray:
    """The fraction of the signal's variance that remains.

        alpha_bar_t = prod_{s <= t} (1 - beta_s)

    Args:
      betas: [T], each in (0, 1].

    Returns:
      f64[T], alpha_bar_t at index t - 1.

    Source: Ho et al. 2020, above equation 4.
    """
    return np.cumprod(1.0 - np.asarray(betas, np.float64))


def rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Rescales a table so that no signal is left at T.

        sqrt(alpha_bar) <- (sqrt(alpha_bar) - a_T) a_1 / (a_1 - a_T)

    with a_1 and a_T the first and the last of the original sqrt(alpha_bar).

    Args:
      betas: [T], T at least 2.

    Returns:
      f64[T] with the original first beta; the last one is 1.

    Source: Lin et al. 2024, algorithm 1, arXiv:2305.08891.
    """
    root = np.sqrt(alpha_bar(betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    remaining = np.append(1.0, root**2)
    return 1.0 - remaining[1:] / remaining[:-1]


def from_betas(betas: np.ndarray) -> Schedule:
    """Turns a table of variances into log-SNR as a function of time.

        logsnr(t) = log(alpha_bar_t / (1 - alpha_bar_t)),  logsnr(0) = +inf

    with linear interpolation between integer times. A last beta of 1 gives pure noise
    at T: logsnr(T) = -inf.

    Args:
      betas: [T], each in (0, 1), the last one in (0, 1]; host float64, outside jit.

    Raises:
      ValueError: betas is not a table, or a beta is out of range.

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
    with np.errstate(divide="ignore"):  # log(0) = -inf is intended
        table = np.append(np.inf, np.log(remaining) - np.log1p(-remaining))
    finite = np.flatnonzero(np.isfinite(table))

    def logsnr(t: ArrayLike) -> Array:
        t, values = jnp.asarray(t), jnp.asarray(table, jnp.result_type(float))
        if jnp.issubdtype(t.dtype, jnp.integer):
            return values[t]
        # The segment that contains t; at T the last one, so that the slope is defined.
        below = jnp.clip(jnp.floor(t).astype(jnp.int32), 1, max(betas.size - 1, 1))
        at, after = values[below], values[jnp.minimum(below + 1, betas.size)]
        slope = jnp.where((t == below) & jnp.isneginf(after), 0.0, after - at)
        return jnp.where(t == 0, jnp.inf, at + (t - below) * slope)

    def time(logsnr: ArrayLike) -> Array:
        logsnr, dtype = jnp.asarray(logsnr), jnp.result_type(float)
        levels, times = (jnp.asarray(x, dtype) for x in (-table[finite], finite))
        t = jnp.interp(-logsnr, levels, times) if finite.size else betas.size
        t = jnp.where(jnp.isneginf(logsnr), betas.size, t)
        return jnp.where(jnp.isposinf(logsnr), 0, t).astype(dtype)

    return Schedule(logsnr, time, betas.size, ends_in_noise=bool(betas[-1] == 1))


def _curve(
    logsnr: Callable[[Array], Array], time: Callable[[Array], Array], num_timesteps: int
) -> Schedule:
    """Builds a schedule from formulas that hold for times in [1, T]."""

    def logsnr_from_0(t: ArrayLike) -> Array:
        t = jnp.asarray(t, jnp.result_type(float))
        return jnp.where(t == 0, jnp.inf, logsnr(jnp.where(t < 1, 1.0, t)))

    def time_to_0(l_t: ArrayLike) -> Array:
        l_t = jnp.asarray(l_t, jnp.result_type(float))
        ends = logsnr(jnp.array([num_timesteps, 1], l_t.dtype))
        t = jnp.clip(time(jnp.clip(l_t, *ends)), 1, num_timesteps)
        return jnp.where(jnp.isposinf(l_t), 0, t)

    return Schedule(logsnr_from_0, time_to_0, num_timesteps)


def sigmoid(
    num_timesteps: int,
    image_size: int,
    start: float = -3.0,
    end: float = 3.0,
    tau: float = 1.0,
    min_alpha_bar: float = 1e-9,
) -> Schedule:
    """alpha_bar is a decreasing sigmoid, rescaled to run from 1 to 0.

        alpha_bar = (S(end) - S(x)) / (S(end) - S(start)),  S(x) = sigmoid(x / tau),
        x = start + (end - start) t/T, and at least `min_alpha_bar`

    Args:
      num_timesteps: T.
      image_size: unused.
      start: the sigmoid's argument at time 0.
      end: the sigmoid's argument at T.
      tau: the sigmoid's width.
      min_alpha_bar: reached only at T.

    Source: Chen 2023, algorithm 1 (sigmoid_schedule), arXiv:2301.10972.
    """
    # S(a) - S(b) = sinh((a - b) / 2 tau) / (2 cosh(a / 2 tau) cosh(b / 2 tau)): a ratio
    # of such differences is accurate at both ends.
    half = (end - start) / (2 * tau)
    shift = math.log(math.cosh(start / (2 * tau)) / math.cosh(end / (2 * tau)))
    min_logsnr = math.log(min_alpha_bar) - math.log1p(-min_alpha_bar)

    def logsnr(t: Array) -> Array:
        left = jnp.sinh(half * (num_timesteps - t) / num_timesteps)
        left = jnp.maximum(left, jnp.finfo(left.dtype).tiny)  # log(0) has no gradient
        gone = jnp.sinh(half * t / num_timesteps)
        return jnp.maximum(jnp.log(left) - jnp.log(gone) + shift, min_logsnr)

    def time(l_t: Array) -> Array:
        cosh_of_half, sinh_of_half = math.cosh(half), math.sinh(half)
        tanh = sinh_of_half / (jnp.exp(l_t - shift) + cosh_of_half)
        return jnp.arctanh(tanh) / half * num_timesteps

    return _curve(logsnr, time, num_timesteps)


def shifted_cosine(
    num_timesteps: int, image_size: int, base_size: int = 64, min_logsnr: float = -15.0
) -> Schedule:
    """The cosine curve without an offset, shifted according to resolution.

        logsnr = -2 log tan(angle) + 2 log(base_size / image_size)

    with angle = t/T arctan(exp(-min_logsnr / 2)). At equal noise a larger image reveals
    more of its signal; the shift keeps the SNR of its low-resolution version constant.

    Args:
      num_timesteps: T.
      image_size: see `make`.
      base_size: the image_size that needs no shift.
      min_logsnr: log-SNR at T before the shift.

    Source: Hoogeboom et al. 2023, section 3.1, arXiv:2301.11093; their angle at time 0
    is slightly above 0, here time 0 is clean data.
    """
    shift = 2 * math.log(base_size / image_size)
    rest = math.atan(math.exp(min_logsnr / 2))
    max_angle = math.pi / 2 - rest

    def logsnr(t: Array) -> Array:
        u, left = t / num_timesteps, (num_timesteps - t) / num_timesteps
        cos = jnp.sin(left * max_angle + rest)  # = cos(angle), accurate near 0
        return 2 * (jnp.log(cos) - jnp.log(jnp.sin(u * max_angle))) + shift

    def time(l_t: Array) -> Array:
        return jnp.arctan(jnp.exp(-0.5 * (l_t - shift))) / max_angle * num_timesteps

    return _curve(logsnr, time, num_timesteps)


def edm(
    num_timesteps: int,
    image_size: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Schedule:
    """EDM's noise levels sigma / alpha: times 1..T are the steps of Karras et al.

        logsnr = -2 log level,
        level(t)^(1/rho) is linear from sigma_min at 1 to sigma_max at T

    Args:
      num_timesteps: T, at least 2.
      image_size: unused.
      sigma_min: the level at time 1.
      sigma_max: the level at T.
      rho: larger values put more levels near the data.

    Source: Karras et al. 2022, equation 5, arXiv:2206.00364.
    """
    first = sigma_min ** (1 / rho)
    slope = (sigma_max ** (1 / rho) - first) / max(num_timesteps - 1, 1)

    def logsnr(t: Array) -> Array:
        return -2 * rho * jnp.log(first + slope * (t - 1))

    def time(l_t: Array) -> Array:
        return 1 + (jnp.exp(-l_t / (2 * rho)) - first) / slope

    return _curve(logsnr, time, num_timesteps)


def make(
    name: str,
    num_timesteps: int,
    image_size: float = 64,
    zero_terminal_snr: bool = False,
) -> Schedule:
    """Builds a schedule by name, with T = num_timesteps.

    Args:
      name: a name in SCHEDULES (tables) or CURVES (formulas).
      num_timesteps: T.
      image_size: the image's side in pixels, which shifted_cosine depends on; for
        non-square images the geometric mean of height and width, for other data the
        default of 64, which means no shift.
      zero_terminal_snr: whether to rescale a table to pure noise at T.

    Raises:
      ValueError: the name is unknown, T is too small, or a curve cannot be rescaled.
    """
    row = lookup(SCHEDULES | CURVES, name, "diffusion.schedule")
    minimum = 2 if zero_terminal_snr or name in CURVES else 1
    if num_timesteps < minimum:
        raise ValueError(
            f"diffusion.num_timesteps must be at least {minimum}, not {num_timesteps}."
        )
    if name in SCHEDULES:
        betas = row(num_timesteps)
        return from_betas(
            rescale_zero_terminal_snr(betas) if zero_terminal_snr else betas
        )
    if zero_terminal_snr:
        raise ValueError(
            "diffusion.zero_terminal_snr rescales a table of betas, but "
            f"diffusion.schedule {name!r} is a curve: use {', '.join(SCHEDULES)}."
        )
    return row(num_timesteps, image_size)


# Tables: T -> betas f64[T].
SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "linear": linear,
    "quad": quad,
    "const": const,
    "jsd": jsd,
    "warmup10": functools.partial(warmup, fraction=0.1),
    "warmup50": functools.partial(warmup, fraction=0.5),
    "cosine": cosine,
}

# Curves: (T, image_size) -> schedule.
CURVES: dict[str, Callable[[int, float], Schedule]] = {
    "sigmoid": sigmoid,
    "shifted_cosine": shifted_cosine,
    "edm": edm,
}

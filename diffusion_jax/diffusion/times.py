"""Times: knots for sampling, and draws for training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.diffusion.walk import example_keys


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


def knots(spacing: str, schedule: Schedule, num_steps: int) -> np.ndarray:
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
    if spacing not in REAL_SPACINGS:
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
REAL_SPACINGS = ("logsnr", "karras")


def uniform_times(keys: Array, num_timesteps: int) -> Array:
    """t ~ Uniform{1, ..., T}, one for each of the keys [B]: i32[B].

    Source: Ho et al. 2020, algorithm 1, line 3, arXiv:2006.11239.
    """
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, num_timesteps + 1))(keys)


def antithetic_times(key: Array, index: Array, num_timesteps: int) -> Array:
    """Uniform times in pairs that mirror each other: examples 2k and 2k + 1.

        t_{2k} = t,  t_{2k+1} = T + 1 - t

    Args:
      key: of the step.
      index: i32[B], global indices.
      num_timesteps: T.

    Returns:
      i32[B].

    Source: the code of Song et al. 2021 (DDIM), arXiv:2010.02502.
    """
    t = uniform_times(example_keys(key, index // 2), num_timesteps)
    return jnp.where(index % 2 == 0, t, num_timesteps + 1 - t)


class TimeDraw(NamedTuple):
    """How training draws its times, as a triple of pure functions.

    Attributes:
      init: T -> memory, what it has to keep.
      draw: (key, index i32[B], schedule, memory) -> (t [B], weight f32[B]); the loss
        of an example is multiplied by its weight.
      remember: (memory, t [B], loss [B]) -> memory, after a step, of all examples.
      whole: whether times are whole numbers.
    """

    init: Callable[[int], Any]
    draw: Callable[[Array, Array, Schedule, Any], tuple[Array, Array]]
    remember: Callable[[Any, Array, Array], Any]
    whole: bool


def _forgetful(times: Callable[..., Array], whole: bool) -> TimeDraw:
    """A draw without a memory and with weight 1, out of (key, index, schedule) -> t."""

    def draw(key, index, schedule, memory):
        t = times(key, index, schedule)
        return t, jnp.ones(t.shape)

    return TimeDraw(lambda T: (), draw, lambda memory, t, loss: memory, whole)


HISTORY = 10  # losses kept of each time
UNIFORM_SHARE = 0.001


def second_moment() -> TimeDraw:
    """Draws times where the loss is large, and weighs them so that its mean is kept.

        p_t ~ sqrt(mean of the last 10 losses squared), mixed with a 0.001 of uniform;
        weight 1 / (T p_t)

    Uniform until every time has been seen ten times. Its memory: loss f32[T, 10],
    newest last, and count i32[T].

    Source: Nichol and Dhariwal 2021, equation 18, arXiv:2102.09672.
    """

    def init(num_timesteps):
        return {
            "loss": jnp.zeros((num_timesteps, HISTORY)),
            "count": jnp.zeros(num_timesteps, jnp.int32),
        }

    def draw(key, index, schedule, memory):
        root = jnp.sqrt(jnp.mean(jnp.square(memory["loss"]), axis=1))
        num_timesteps = len(root)
        p = root / jnp.maximum(jnp.sum(root), jnp.finfo(root.dtype).tiny)
        p = (1 - UNIFORM_SHARE) * p + UNIFORM_SHARE / num_timesteps
        p = jnp.where(jnp.all(memory["count"] == HISTORY), p, 1 / num_timesteps)
        u = jax.vmap(jax.random.uniform)(example_keys(key, index))
        ends = jnp.cumsum(p)
        place = jnp.searchsorted(ends, u * ends[-1], side="right")
        place = jnp.minimum(place, num_timesteps - 1)
        return place + 1, 1 / (num_timesteps * p[place])

    def remember(memory, t, loss):
        def insert(memory, example):
            t, loss = example
            row = jnp.append(memory["loss"][t - 1, 1:], loss)
            count = jnp.minimum(memory["count"][t - 1] + 1, HISTORY)
            return {
                "loss": memory["loss"].at[t - 1].set(row),
                "count": memory["count"].at[t - 1].set(count),
            }, None

        return jax.lax.scan(insert, memory, (t, loss))[0]

    return TimeDraw(init, draw, remember, whole=True)


def continuous_times(key: Array, index: Array, num_timesteps: int) -> Array:
    """Real t ~ Uniform[1, T], one an example: f32[B].

    Source: Kingma et al. 2021, section 4, arXiv:2107.00630.
    """
    u = jax.vmap(jax.random.uniform)(example_keys(key, index))
    return 1 + (num_timesteps - 1) * u


def lognormal_times(
    key: Array, index: Array, schedule: Schedule, mean: float = -1.2, std: float = 1.2
) -> Array:
    """Real times whose noise over signal is log-normal: f32[B].

        log(level) ~ N(mean, std^2),  logsnr = -2 log(level)

    Source: Karras et al. 2022, table 1, arXiv:2206.00364.
    """
    z = jax.vmap(jax.random.normal)(example_keys(key, index))
    return schedule.time(-2 * (mean + std * z))


DRAWS: dict[str, TimeDraw] = {
    "uniform": _forgetful(
        lambda key, index, s: uniform_times(example_keys(key, index), s.num_timesteps),
        True,
    ),
    "antithetic": _forgetful(
        lambda key, index, s: antithetic_times(key, index, s.num_timesteps), True
    ),
    "second_moment": second_moment(),
    "continuous": _forgetful(
        lambda key, index, s: continuous_times(key, index, s.num_timesteps), False
    ),
    "lognormal": _forgetful(lognormal_times, False),
}

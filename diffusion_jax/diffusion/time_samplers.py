"""Timestep samplers: how training draws the time of each example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.prng import example_keys


def uniform(keys: Array, num_timesteps: int) -> Array:
    """t ~ Uniform{1, ..., T}, one for each of the keys [B]: i32[B].

    Source: Ho et al. 2020, algorithm 1, line 3, arXiv:2006.11239.
    """
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, num_timesteps + 1))(keys)


def antithetic(key: Array, index: Array, num_timesteps: int) -> Array:
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
    t = uniform(example_keys(key, index // 2), num_timesteps)
    return jnp.where(index % 2 == 0, t, num_timesteps + 1 - t)


class TimestepSampler(NamedTuple):
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


def _forgetful(times: Callable[..., Array], whole: bool) -> TimestepSampler:
    """A draw without a memory and with weight 1, out of (key, index, schedule) -> t."""

    def draw(key, index, schedule, memory):
        t = times(key, index, schedule)
        return t, jnp.ones(t.shape)

    return TimestepSampler(lambda T: (), draw, lambda memory, t, loss: memory, whole)


HISTORY = 10  # losses kept of each time
UNIFORM_SHARE = 0.001


def second_moment() -> TimestepSampler:
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

    return TimestepSampler(init, draw, remember, whole=True)


def continuous(key: Array, index: Array, num_timesteps: int) -> Array:
    """Real t ~ Uniform[1, T], one an example: f32[B].

    Source: Kingma et al. 2021, section 4, arXiv:2107.00630.
    """
    u = jax.vmap(jax.random.uniform)(example_keys(key, index))
    return 1 + (num_timesteps - 1) * u


def lognormal(
    key: Array, index: Array, schedule: Schedule, mean: float = -1.2, std: float = 1.2
) -> Array:
    """Real times whose noise over signal is log-normal: f32[B].

        log(level) ~ N(mean, std^2),  logsnr = -2 log(level)

    Source: Karras et al. 2022, table 1, arXiv:2206.00364.
    """
    z = jax.vmap(jax.random.normal)(example_keys(key, index))
    return schedule.time(-2 * (mean + std * z))


TIMESTEP_SAMPLERS: dict[str, TimestepSampler] = {
    "uniform": _forgetful(
        lambda key, index, s: uniform(example_keys(key, index), s.num_timesteps),
        True,
    ),
    "antithetic": _forgetful(
        lambda key, index, s: antithetic(key, index, s.num_timesteps), True
    ),
    "second_moment": second_moment(),
    "continuous": _forgetful(
        lambda key, index, s: continuous(key, index, s.num_timesteps), False
    ),
    "lognormal": _forgetful(lognormal, False),
}

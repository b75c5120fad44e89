"""Timestep samplers, which draw the training timestep of each example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import prng
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.prng import example_keys

HISTORY = 10  # losses kept per timestep
UNIFORM_SHARE = 0.001


def uniform(keys: Array, num_timesteps: int) -> Array:
    """t ~ Uniform{1, ..., T}, one per key: [B] -> i32[B].

    Source: Ho et al. 2020, algorithm 1, line 3, arXiv:2006.11239.
    """
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, num_timesteps + 1))(keys)


def antithetic(key: Array, index: Array, num_timesteps: int) -> Array:
    """Uniform times in mirrored pairs: examples 2k and 2k + 1.

        t_{2k} = t,  t_{2k+1} = T + 1 - t

    Args:
      key: the step's key.
      index: i32[B], global indices.
      num_timesteps: T.

    Returns:
      i32[B].

    Source: the code of Song et al. 2021 (DDIM), arXiv:2010.02502.
    """
    t = uniform(example_keys(key, index // 2), num_timesteps)
    return jnp.where(index % 2 == 0, t, num_timesteps + 1 - t)


class TimestepSampler(NamedTuple):
    """A distribution of training timesteps, as three pure functions.

    Attributes:
      init: T -> state, () if there is none.
      sample: (key, index i32[B], schedule, state) -> (t [B], weight f32[B]); the loss
        of an example is multiplied by its weight.
      update: (state, t [B], loss [B]) -> state, after each step, with the whole batch.
      discrete: whether timesteps are integers.
    """

    init: Callable[[int], Any]
    sample: Callable[[Array, Array, Schedule, Any], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]
    discrete: bool


def _stateless(times: Callable[..., Array], discrete: bool) -> TimestepSampler:
    """A sampler with weight 1 and no state, from (key, index, schedule) -> t."""

    def sample(key, index, schedule, state):
        t = times(key, index, schedule)
        return t, jnp.ones(t.shape)

    return TimestepSampler(lambda T: (), sample, lambda state, t, loss: state, discrete)


def second_moment() -> TimestepSampler:
    """Importance sampling: draws t in proportion to its root mean squared loss.

        p_t ~ sqrt(mean of the last 10 squared losses), mixed with 0.001 of uniform;
        weight 1 / (T p_t)

    The distribution is uniform until each timestep has ten losses. State: loss
    f32[T, 10], newest last, and count i32[T].

    Source: Nichol and Dhariwal 2021, equation 18, arXiv:2102.09672.
    """

    def init(num_timesteps):
        return {
            "loss": jnp.zeros((num_timesteps, HISTORY)),
            "count": jnp.zeros(num_timesteps, jnp.int32),
        }

    def sample(key, index, schedule, state):
        root = jnp.sqrt(jnp.mean(jnp.square(state["loss"]), axis=1))
        num_timesteps = len(root)
        p = root / jnp.maximum(jnp.sum(root), jnp.finfo(root.dtype).tiny)
        p = (1 - UNIFORM_SHARE) * p + UNIFORM_SHARE / num_timesteps
        p = jnp.where(jnp.all(state["count"] == HISTORY), p, 1 / num_timesteps)
        cdf, u = jnp.cumsum(p), prng.uniform(example_keys(key, index))
        place = jnp.searchsorted(cdf, u * cdf[-1], side="right")
        place = jnp.minimum(place, num_timesteps - 1)
        return place + 1, 1 / (num_timesteps * p[place])

    def update(state, t, loss):
        def insert(state, example):
            t, loss = example
            row = jnp.append(state["loss"][t - 1, 1:], loss)
            count = jnp.minimum(state["count"][t - 1] + 1, HISTORY)
            return {
                "loss": state["loss"].at[t - 1].set(row),
                "count": state["count"].at[t - 1].set(count),
            }, None

        return jax.lax.scan(insert, state, (t, loss))[0]

    return TimestepSampler(init, sample, update, discrete=True)


def continuous(key: Array, index: Array, num_timesteps: int) -> Array:
    """t ~ Uniform[1, T], one per example: f32[B].

    Source: Kingma et al. 2021, section 4, arXiv:2107.00630.
    """
    return 1 + (num_timesteps - 1) * prng.uniform(example_keys(key, index))


def lognormal(
    key: Array, index: Array, schedule: Schedule, mean: float = -1.2, std: float = 1.2
) -> Array:
    """Continuous times with a log-normal noise level sigma / alpha: f32[B].

        log(level) ~ N(mean, std^2),  logsnr = -2 log(level)

    Source: Karras et al. 2022, table 1, arXiv:2206.00364.
    """
    z = prng.normal(example_keys(key, index), ())
    return schedule.time(-2 * (mean + std * z))


TIMESTEP_SAMPLERS: dict[str, TimestepSampler] = {
    "uniform": _stateless(
        lambda key, index, s: uniform(example_keys(key, index), s.num_timesteps),
        discrete=True,
    ),
    "antithetic": _stateless(
        lambda key, index, s: antithetic(key, index, s.num_timesteps), discrete=True
    ),
    "second_moment": second_moment(),
    "continuous": _stateless(
        lambda key, index, s: continuous(key, index, s.num_timesteps), discrete=False
    ),
    "lognormal": _stateless(lognormal, discrete=False),
}

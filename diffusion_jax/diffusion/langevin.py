"""Langevin dynamics, which needs only the score: plain, annealed, as a corrector."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffusion_jax.diffusion import process
from diffusion_jax.diffusion.sampling import Sampler
from diffusion_jax.prng import fold_in, normal


def langevin_step(x: Array, score: Array, step_size: Array, noise: Array) -> Array:
    """One step of unadjusted Langevin dynamics.

        x + step_size score + sqrt(2 step_size) noise

    In the limit of many small steps x follows the density with that score; a finite
    step size makes the variance too large by about step_size / 2.

    Args:
      x: [B, ...].
      score: [B, ...], grad log p(x).
      step_size: [] or [B].
      noise: [B, ...], standard normal.

    Source: Song and Ermon 2019, equation 4 (their alpha / 2), arXiv:1907.05600.
    """
    step_size = process.align(step_size, x)
    return x + step_size * score + jnp.sqrt(2 * step_size) * noise


def _correct(keys, denoise, x_t, t, l_t, num_steps, snr):
    """Runs Langevin steps at time t; returns x_t and the last prediction of x_0."""

    def step(carry, number):
        x_t, _ = carry
        x_0 = denoise(x_t, t).x_0
        score = process.score_from_eps(process.eps_from_x0(x_t, x_0, l_t), l_t)
        step_size = 2 * snr**2 * jax.nn.sigmoid(-l_t)
        noise = normal(fold_in(keys, number), x_t.shape[1:])
        return (langevin_step(x_t, score, step_size, noise), x_0), None

    carry = (x_t, jnp.zeros_like(x_t))
    return lax.scan(step, carry, jnp.arange(num_steps))[0]


def predictor_corrector(num_corrections: int = 1, snr: float = 0.16) -> Sampler:
    """An ancestral step (fixedsmall) to s, then Langevin steps at s.

    A step costs 1 + num_corrections network calls.

        step_size = 2 snr^2 sigma_s^2

    This is the paper's 2 (snr |z| / |score|)^2 for a score of norm |z| / sigma, as for
    pure noise. A fixed step size also works in low dimensions, and makes each example
    independent of its batch.

    Args:
      num_corrections: Langevin steps at each time.
      snr: signal-to-noise ratio of a Langevin step.

    Source: Song et al. 2021, algorithms 3 and 5, arXiv:2011.13456.
    """

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)
        x_0 = denoise(x_t, t).x_0
        mean = process.posterior_mean(x_0, x_t, l_s, l_t)
        keys = jax.vmap(jax.random.split)(keys)
        noise = normal(keys[:, 0], x_t.shape[1:])
        x_s = mean + jnp.sqrt(process.posterior_variance(l_s, l_t)) * noise
        x_s, _ = _correct(keys[:, 1], denoise, x_s, s, l_s, num_corrections, snr)
        return state, x_s, x_0

    return Sampler(init=lambda x_t: (), step=step)


def annealed(num_corrections: int = 3, snr: float = 0.3) -> Sampler:
    """Langevin steps at t, then a move to s that keeps x_t / alpha.

    Args:
      num_corrections: Langevin steps, and network calls, at each time.
      snr: signal-to-noise ratio of a Langevin step, see `predictor_corrector`.

    Source: Song and Ermon 2019, algorithm 1, arXiv:1907.05600.
    """

    def step(state, keys, denoise, schedule, x_t, t, s):
        l_s, l_t = schedule(s), schedule(t)
        x_t, x_0 = _correct(keys, denoise, x_t, t, l_t, num_corrections, snr)
        return state, process.alpha(l_s) / process.alpha(l_t) * x_t, x_0

    return Sampler(init=lambda x_t: (), step=step, needs_signal=True)

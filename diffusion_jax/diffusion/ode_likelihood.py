"""Exact likelihood from the probability-flow ODE, unlike the variational bound.

In log-SNR l the ODE and its divergence are, for a denoiser x_0_hat,

    dx/dl = alpha/2 (x_0_hat - alpha x),  div = alpha/2 (tr dx_0_hat/dx - alpha D)
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.diffusion import gaussians, process
from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.schedules import Schedule

LEVELS = 127.5  # 8-bit levels per unit of x_0


def basis_probes(shape: tuple[int, ...]) -> Array:
    """Probes for the exact trace: sqrt(D) times each of the D unit vectors.

    Returns:
      f32[D, 1, *shape].
    """
    size = math.prod(shape)
    return (math.sqrt(size) * jnp.eye(size)).reshape(size, 1, *shape)


def random_probes(keys: Array, num_probes: int, shape: tuple[int, ...]) -> Array:
    """Probes for Hutchinson's estimator: entries -1 or 1, drawn per example.

    Returns:
      f32[num_probes, B, *shape].

    Source: Hutchinson 1990; Grathwohl et al. 2019, section 3.1, arXiv:1810.01367.
    """
    full = (num_probes, *shape)
    draw = jax.vmap(
        lambda key: jax.random.rademacher(key, full, jnp.result_type(float))
    )
    return jnp.swapaxes(draw(keys), 0, 1)


def dequantize(keys: Array, x_0: Array) -> Array:
    """Adds uniform noise over the bin of each of 256 levels in [-1, 1], 1/127.5 wide.

    Source: Theis et al. 2016, section 3.1, arXiv:1511.01844.
    """
    return x_0 + (prng.uniform(keys, x_0.shape[1:]) - 0.5) / LEVELS


def _velocity(
    denoise: Denoiser, probes: Array, x: Array, t: Array, logsnr: Array
) -> tuple[Array, Array]:
    """dx/dl and its divergence [B], with one linearisation for all probes.

    The products are J^T v, since fused attention has no forward derivative.
    """
    x_0, vjp = jax.vjp(lambda x: denoise(x, t, None).x_0.astype(x.dtype), x)

    def quadratic_form(probe: Array) -> Array:
        probe = jnp.broadcast_to(probe, x.shape).astype(x.dtype)
        (product,) = vjp(probe)
        return gaussians.sum_over_data(probe * product)

    trace = jnp.mean(lax.map(quadratic_form, probes), axis=0)
    alpha, size = process.alpha(logsnr), math.prod(x.shape[1:])
    return alpha / 2 * (x_0 - alpha * x), alpha / 2 * (trace - alpha * size)


def log_likelihood(
    denoise: Denoiser,
    schedule: Schedule,
    timesteps: np.ndarray,
    x_1: Array,
    probes: Array,
) -> Array:
    """Log-density of data at the last timestep, by Heun's method in log-SNR.

        log p(x_1) = log N(x_T; 0, I) + integral of div from l_1 to l_T

    Args:
      denoise: predicts x_0, without self-conditioning; differentiable, so without
        thresholding.
      schedule: log-SNR as a function of time, finite at timesteps[0].
      timesteps: [N], decreasing; each of the N - 1 steps costs two network calls. The
        density at timesteps[0] is assumed to be N(0, I), as in sampling.
      x_1: [B, ...], at timesteps[-1], where there is little noise.
      probes: [k, B or 1, ...], with E[v v^T] = I: `basis_probes` give the exact trace,
        `random_probes` an unbiased estimate. The same probes are used at every step.

    Returns:
      Nats, [B], summed over the data.

    Source: Song et al. 2021, equation 39, arXiv:2011.13456; Chen et al. 2018,
    theorem 1, arXiv:1806.07366.
    """
    increasing = jnp.asarray(timesteps)[::-1]

    def step(carry, ends):
        x, integral = carry
        s, t = ends
        change = schedule(t) - schedule(s)
        # A scan over both slopes, so that the network is compiled once.
        start = (x, (jnp.zeros_like(x), jnp.zeros_like(integral)))

        def slope(carry, time):
            at, (total, total_div) = carry
            v, div = _velocity(denoise, probes, at, time, schedule(time))
            return (x + change * v, (total + v / 2, total_div + div / 2)), None

        (_, (mean, mean_div)), _ = lax.scan(slope, start, jnp.stack([s, t]))
        return (x + change * mean, integral + change * mean_div), None

    carry = (x_1, jnp.zeros(x_1.shape[0], x_1.dtype))
    (x_T, integral), _ = lax.scan(step, carry, (increasing[:-1], increasing[1:]))
    log_prior = -0.5 * (jnp.square(x_T) + math.log(2 * math.pi))
    return gaussians.sum_over_data(log_prior) + integral

"""Likelihood by the probability-flow ODE: of the model itself, not a bound on it.

In log-SNR l the flow and its divergence are, for a denoiser x_0_hat,

    dx/dl = alpha/2 (x_0_hat - alpha x),  div = alpha/2 (tr dx_0_hat/dx - alpha D)
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax.diffusion import gaussians, process
from diffusion_jax.diffusion.sampling import Denoiser
from diffusion_jax.diffusion.schedules import Schedule

LEVELS = 127.5  # grey levels in a unit of x_0


def basis_probes(shape: tuple[int, ...]) -> Array:
    """Probes of the exact trace: sqrt(D) times each of the D unit vectors.

    Returns:
      f32[D, 1, *shape].
    """
    size = math.prod(shape)
    return (math.sqrt(size) * jnp.eye(size)).reshape(size, 1, *shape)


def random_probes(keys: Array, num_probes: int, shape: tuple[int, ...]) -> Array:
    """Probes of Hutchinson's estimate: entries -1 or 1, an example's from its key.

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
    """Spreads each of the 256 levels in [-1, 1] evenly over its bin, 1/127.5 wide.

    Source: Theis et al. 2016, section 3.1, arXiv:1511.01844.
    """
    draw = jax.vmap(lambda key: jax.random.uniform(key, x_0.shape[1:], x_0.dtype))
    return x_0 + (draw(keys) - 0.5) / LEVELS


def _velocity(denoise: Denoiser, probes: Array, x: Array, t: Array, logsnr: Array):
    """dx/dl and its divergence [B], with one linearisation for all the probes."""
    x_0, push = jax.linearize(lambda x: denoise(x, t).astype(x.dtype), x)

    def along(probe: Array) -> Array:
        probe = jnp.broadcast_to(probe, x.shape).astype(x.dtype)
        return gaussians.sum_over_data(probe * push(probe))

    trace = jnp.mean(lax.map(along, probes), axis=0)
    alpha, size = process.alpha(logsnr), math.prod(x.shape[1:])
    return alpha / 2 * (x_0 - alpha * x), alpha / 2 * (trace - alpha * size)


def log_likelihood(
    denoise: Denoiser,
    schedule: Schedule,
    times: np.ndarray,
    x_1: Array,
    probes: Array,
) -> Array:
    """Log-density of data at the last of the times, by Heun's rule in log-SNR.

        log p(x_1) = log N(x_T; 0, I) + integral of div from l_1 to l_T

    Args:
      denoise: predicts x_0 alone; smooth, so not clipped.
      schedule: log-SNR of time, with signal left at times[0].
      times: [N], falling; two calls of the denoiser for each of the N - 1 steps. The
        density at times[0] is taken for N(0, I), as every sampler takes it.
      x_1: [B, ...], at times[-1], where there is little noise.
      probes: [k, B or 1, ...], whose mean of v v^T is, or is expected to be, the
        identity: `basis_probes` make the trace exact, `random_probes` unbiased. They
        are the same all along the way, so that the path is that of one ODE.

    Returns:
      Nats, [B], summed over the data.

    Source: Song et al. 2021, equation 39, arXiv:2011.13456; Chen et al. 2018,
    theorem 1, arXiv:1806.07366.
    """
    rising = jnp.asarray(times)[::-1]

    def velocity(x: Array, t: Array):
        return _velocity(denoise, probes, x, t, schedule(t))

    def step(carry, knot):
        x, integral = carry
        s, t = knot
        change = schedule(t) - schedule(s)
        # Both slopes out of one piece of code, which is compiled once.
        start = (x, (jnp.zeros_like(x), jnp.zeros_like(integral)))

        def slope(carry, time):
            at, (total, total_div) = carry
            v, div = velocity(at, time)
            return (x + change * v, (total + v / 2, total_div + div / 2)), None

        (_, (mean, mean_div)), _ = lax.scan(slope, start, jnp.stack([s, t]))
        return (x + change * mean, integral + change * mean_div), None

    carry = (x_1, jnp.zeros(x_1.shape[0], x_1.dtype))
    (x_T, integral), _ = lax.scan(step, carry, (rising[:-1], rising[1:]))
    log_prior = -0.5 * (jnp.square(x_T) + math.log(2 * math.pi))
    return gaussians.sum_over_data(log_prior) + integral

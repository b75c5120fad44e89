"""Denoisers: from a network's output to x_0, and wrappers from denoiser to denoiser."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import process
from diffusion_jax.diffusion.samplers import Denoiser
from diffusion_jax.diffusion.schedules import Schedule


def from_network(
    network: Callable[[Array, Array], Array], prediction: str, schedule: Schedule
) -> Denoiser:
    """Turns a network that predicts eps, x0, v or mu into one that predicts x_0.

    The network is given the authors' time t - 1 in 0..T-1, so that weights trained
    elsewhere mean the same thing.

    Args:
      network: (x_t [B, ...], i32[B] in 0..T-1) -> [B, ...].
      prediction: a name of process.PREDICTIONS.
      schedule: log-SNR of time.

    Returns:
      (x_t [B, ...], integer t in 1..T, [] or [B]) -> x_0 [B, ...].

    Raises:
      ValueError: the name is unknown.

    Source: Ho et al. 2020, equation 15, arXiv:2006.11239.
    """
    if prediction not in process.PREDICTIONS:
        raise ValueError(
            f"Unknown prediction {prediction!r}. "
            f"Known ones: {', '.join(process.PREDICTIONS)}."
        )
    to_x0 = process.PREDICTIONS[prediction].to_x0

    def denoise(x_t: Array, t: Array) -> Array:
        output = network(x_t, jnp.broadcast_to(t - 1, x_t.shape[:1]))
        return to_x0(x_t, output, schedule(t - 1), schedule(t))

    return denoise


def clipped(denoise: Denoiser) -> Denoiser:
    """Clips the predicted x_0 to [-1, 1], the range of the data.

    Source: the authors' code for Ho et al. 2020 (clip_denoised).
    """
    return lambda x_t, t: jnp.clip(denoise(x_t, t), -1.0, 1.0)

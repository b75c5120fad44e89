"""The denoiser: the common interface of networks, guidance and samplers."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion import process
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.lookup import lookup


class Denoised(NamedTuple):
    """A denoiser's prediction.

    Attributes:
      x_0: [B, ...].
      model_var_values: [B, ...], the network's variance output, or None if the variance
        is fixed. The sampler knows s and turns it into a variance.
    """

    x_0: Array
    model_var_values: Array | None = None


# (x_t [B, ...], time t [] or [B], self_cond) -> Denoised. self_cond is the previous
# prediction of x_0, [B, ...], under self-conditioning, and None otherwise.
Denoiser = Callable[[Array, Array, Array | None], Denoised]


def from_network(
    network: Callable[[Array, Array, Array | None], Array],
    prediction: str,
    schedule: Schedule,
    learned_variance: bool = False,
) -> Denoiser:
    """Turns a network that predicts eps, x0, v, mu, ... into a denoiser.

    The network receives t - 1 in 0..T-1, as in the authors' code, so that pretrained
    weights can be used.

    Args:
      network: (x_t [B, ...], t [B] in 0..T-1, self_cond) -> [B, ...].
      prediction: a name in process.PREDICTIONS.
      schedule: log-SNR as a function of time.
      learned_variance: whether the second half of the output's last axis is
        model_var_values.

    Returns:
      A denoiser for t in [1, T].

    Raises:
      ValueError: the prediction is unknown.

    Source: Ho et al. 2020, equation 15, arXiv:2006.11239.
    """
    row = lookup(process.PREDICTIONS, prediction, "diffusion.prediction")

    def denoise(x_t: Array, t: Array, self_cond: Array | None) -> Denoised:
        l_s, l_t = schedule(t - 1), schedule(t)
        scaled = process.align(row.input_scale(l_t), x_t) * x_t
        output = network(scaled, jnp.broadcast_to(t - 1, x_t.shape[:1]), self_cond)
        model_var_values = None
        if learned_variance:
            output, model_var_values = jnp.split(output, 2, axis=-1)
        return Denoised(row.to_x0(x_t, output, l_s, l_t), model_var_values)

    return denoise

"""Normalisation over the batch (DCGAN) and over each example's pixels (CycleGAN)."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.models.unet import at_least_float32


def identity(x: Array) -> Array:
    """Returns x: what leaves each device its own statistics."""
    return x


def scale_init(
    key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Array:
    """Draws scales from N(1, 0.02^2), as the code of DCGAN's authors does."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class BatchNorm(nn.Module):
    """Normalises every channel by its moments over the batch, or by their averages.

        y = scale (x - mean) / sqrt(var + epsilon) + bias

    The variance is the mean of (x - mean)^2, in a second pass: exact, where
    E[x^2] - E[x]^2 would cancel. It divides by the number of values, also in the
    running average.

    Attributes:
      average: turns the moments of one device's share into those of the whole batch
        (the mean over devices); by default they stay those of the share.
      momentum: how much of the running averages a training step keeps, in [0, 1).
      epsilon: added to the variance.

    Source: Ioffe and Szegedy 2015, algorithm 1, arXiv:1502.03167.
    """

    average: Callable[[Array], Array] = identity
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalises x [B, ..., C].

        Args:
          x: [B, ..., C].
          train: with the batch's moments, which then move the variables "batch_stats"
            (to be mutable); otherwise with those variables, so that an example's result
            does not depend on the others. Initialisation uses and moves nothing.

        Returns:
          An array like x. Moments are taken in float32 at least.
        """
        features = (x.shape[-1],)
        aligned = (1,) * (x.ndim - 1) + features
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale = self.param("scale", scale_init, features)
        bias = self.param("bias", nn.initializers.zeros, features)

        wide = at_least_float32(x)
        if train and not self.is_initializing():
            axes = tuple(range(x.ndim - 1))
            mean = self.average(wide.mean(axes))
            var = self.average(jnp.square(wide - mean.reshape(aligned)).mean(axes))
            for running, now in ((running_mean, mean), (running_var, var)):
                running.value = (
                    self.momentum * running.value + (1.0 - self.momentum) * now
                )
        else:
            mean, var = running_mean.value, running_var.value

        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        y = (wide - mean.reshape(aligned)) * gain.reshape(aligned)
        return (y + bias.reshape(aligned)).astype(x.dtype)


class InstanceNorm(nn.Module):
    """Normalises every channel of every example by its own moments over the pixels.

        y = (x - mean) / sqrt(var + epsilon)

    Without parameters and without running averages, as in CycleGAN.

    Attributes:
      epsilon: added to the variance.

    Source: Ulyanov et al. 2016, equation 4, arXiv:1607.08022.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [B, H, W, C] over H and W, in float32 at least."""
        wide = at_least_float32(x)
        centred = wide - wide.mean((1, 2), keepdims=True)
        var = jnp.square(centred).mean((1, 2), keepdims=True)
        return (centred * jax.lax.rsqrt(var + self.epsilon)).astype(x.dtype)

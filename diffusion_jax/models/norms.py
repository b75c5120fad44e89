"""Group normalisation, with few passes over its input."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from diffusion_jax.models.precision import at_least_float32


class GroupNorm(nn.Module):
    """Normalises groups of channels, then scales and shifts each channel.

        y = scale (x - mean) / sqrt(var + epsilon) + bias

    The same function and parameters as `nn.GroupNorm`. Sums over pixels come first, and
    groups are formed of these sums [B, C], so that no pass splits the channels, which
    is faster on CPUs (benchmarks/alternatives.py).

    Attributes:
      num_groups: divides the number of channels.
      epsilon: added to the variance.
      dtype: of the output; statistics are computed in float32 or wider.

    Source: Wu and He 2018, arXiv:1803.08494.
    """

    num_groups: int
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [B, ..., C]."""
        batch, channels = x.shape[0], x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        flat = at_least_float32(x).reshape(batch, -1, channels)

        def mean(z: Array) -> Array:
            """Averages over pixels and the channels of a group, [B, N, C] -> [B, C]."""
            groups = z.mean(axis=1).reshape(batch, self.num_groups, -1)
            means = jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape)
            return means.reshape(batch, channels)

        center = mean(flat)
        variance = jnp.maximum(mean(flat * flat) - center * center, 0.0)
        slope = lax.rsqrt(variance + self.epsilon) * scale[None]
        shift = bias[None] - center * slope
        y = flat * slope[:, None] + shift[:, None]
        return y.reshape(x.shape).astype(self.dtype)

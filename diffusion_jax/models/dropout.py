"""Dropout that does not depend on the number of devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import prng


class ExampleDropout(nn.Module):
    """Dropout whose mask depends on an example's index, not on its place in a shard.

    Attributes:
      rate: probability that an activation is set to zero, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, index: Array | None) -> Array:
        """Drops activations of x [B, ...] if the examples' index, i32[B], is given."""
        if index is None or self.rate == 0.0:
            return x
        keys = prng.example_keys(self.make_rng("dropout"), index)
        keep = jax.vmap(
            lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:])
        )(keys)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))

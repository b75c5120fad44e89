"""Casts of activations in networks of low precision."""

import jax.numpy as jnp
from jax import Array


def at_least_float32(x: Array) -> Array:
    """Casts x to float32 unless its dtype is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

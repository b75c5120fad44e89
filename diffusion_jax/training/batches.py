"""What is done to a batch on the device, before a method sees it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

PyTree = Any


def normalise(batch: PyTree) -> PyTree:
    """Maps the images of a batch, which travel to the device as bytes, to [-1, 1].

        x = byte / 127.5 - 1

    Args:
      batch: arrays of any shape. Those of dtype uint8 are images.

    Returns:
      The batch with f32 images, equal in every bit to `data.transforms.to_float`; other
      arrays are unchanged.
    """
    is_image = lambda x: x.dtype == jnp.uint8  # noqa: E731
    return jax.tree.map(lambda x: _to_float(x) if is_image(x) else x, batch)


def _to_float(images: Array) -> Array:
    # Compilers replace the division by a product and fuse it with the subtraction,
    # which changes the last bit. Integers are exact everywhere, and
    #     2^24 x = 2^24 (2 byte - 255) / 255 = (2 byte - 255) (65793 + 1 / 255),
    # whose last part float32 division rounds to -1 (bytes 0..63), 0 or 1 (128..255).
    byte = images.astype(jnp.int32)
    last = jnp.minimum((byte >> 6) - 1, 1)
    return ((2 * byte - 255) * 65793 + last).astype(jnp.float32) * 2**-24

"""Position encodings: sinusoidal, rotary, and positions in packed examples."""

import jax.numpy as jnp
from jax import Array, lax

LONGEST_PERIOD = 10000.0  # in units of 2 pi tokens


def segment_positions(segment: Array) -> Array:
    """Counts positions from 0 in each document of a packed example.

    Args:
      segment: i32[B, L], the number of each token's document.

    Returns:
      i32[B, L].
    """
    index = jnp.arange(segment.shape[1])[None]
    begins = jnp.diff(segment, axis=1, prepend=segment[:, :1]) != 0
    start = lax.cummax(jnp.where(begins, index, 0), axis=1)
    return index - start


def sinusoidal(position: Array, width: int) -> Array:
    """Encodes positions by sines and cosines of many periods.

        PE(p, 2i) = sin(p / 10000^(2i / width)),    PE(p, 2i + 1) = cos(the same)

    Args:
      position: i32[...].
      width: even.

    Returns:
      [..., width].

    Source: Vaswani et al. 2017, section 3.5, arXiv:1706.03762.
    """
    angle = position[..., None] * jnp.expand_dims(
        _frequencies(width), range(position.ndim)
    )
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return pairs.reshape(*position.shape, width)


def rotate(x: Array, position: Array) -> Array:
    """Rotates pairs of channels by angles that are proportional to the position.

        (x_i, x_{i + C/2})  is rotated by  p / 10000^(2i / C)

    The product of a rotated query and key depends on the distance of their positions.

    Args:
      x: [B, H, L, C], queries or keys; C is even.
      position: i32[B or 1, L].

    Returns:
      As x.

    Source: Su et al. 2021, equation 34, arXiv:2104.09864, with pairs that lie C/2 apart
    instead of side by side, which is the same up to the order of channels.
    """
    frequencies = _frequencies(x.shape[-1])[None, None, None]
    angle = position[:, None, :, None] * frequencies
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def _frequencies(width: int) -> Array:
    """Returns 10000^(-2i / width), [width / 2]."""
    return LONGEST_PERIOD ** -(jnp.arange(0, width, 2) / width)

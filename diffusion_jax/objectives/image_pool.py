"""A pool of past generated images, from which a discriminator is shown some."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Pool(NamedTuple):
    """Past images, part of a checkpoint.

    Attributes:
      images: [P, H, W, C], the first `count` of which have been filled.
      count: i32[].
    """

    images: Array
    count: Array


def empty(size: int, image_shape: tuple[int, int, int]) -> Pool | tuple[()]:
    """Makes an empty pool of that many images; size 0 is none at all."""
    if not size:
        return ()
    return Pool(jnp.zeros((size, *image_shape)), jnp.zeros((), jnp.int32))


def query(
    pool: Pool | tuple[()], images: Array, keys: Array
) -> tuple[Pool | tuple[()], Array]:
    """Puts images into the pool, one after the other, and takes as many out.

    While the pool is not full an image enters and is given back. Then it is given
    back with probability 1/2; otherwise it takes the place of an old one, drawn evenly,
    which is given back.

    Args:
      pool: of P images, or (), which gives every image back.
      images: [B, H, W, C], in the order of their examples.
      keys: [B], one an image.

    Returns:
      The new pool, and [B, H, W, C].

    Source: Shrivastava et al. 2017, section 2.3, arXiv:1612.07828, one image at a time
    as in Zhu et al. 2017, section 4, arXiv:1703.10593.
    """
    if not pool:
        return pool, images
    size = len(pool.images)

    def one(pool: Pool, shown: tuple[Array, Array]) -> tuple[Pool, Array]:
        image, key = shown
        coin_key, place_key = jax.random.split(key)
        filling = pool.count < size
        drawn = jax.random.randint(place_key, (), 0, size)
        place = jnp.where(filling, pool.count, drawn)
        old = pool.images[place]
        swap = jax.random.bernoulli(coin_key) & ~filling
        entering = jnp.where(filling | swap, image, old)
        new = Pool(pool.images.at[place].set(entering), pool.count + filling)
        return new, jnp.where(swap, old, image)

    return lax.scan(one, pool, (images, keys))

"""A pool of previously generated images, on which a discriminator is trained."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Pool(NamedTuple):
    """Previously generated images; part of a checkpoint.

    Attributes:
      images: [P, H, W, C], of which the first `count` are filled.
      count: i32[].
    """

    images: Array
    count: Array


def empty(size: int, image_shape: tuple[int, int, int]) -> Pool | tuple[()]:
    """Creates an empty pool for `size` images, or () for size 0."""
    if not size:
        return ()
    return Pool(jnp.zeros((size, *image_shape)), jnp.zeros((), jnp.int32))


def query(
    pool: Pool | tuple[()], images: Array, keys: Array
) -> tuple[Pool | tuple[()], Array]:
    """Replaces some of the images by previous ones from the pool, one after the other.

    While the pool is not full, an image is stored and also returned. Afterwards it is
    returned with probability 1/2; otherwise it replaces a uniformly drawn image of the
    pool, which is returned instead.

    Args:
      pool: of P images, or (), in which case the images are returned unchanged.
      images: [B, H, W, C], in the order of the batch.
      keys: [B], one per image.

    Returns:
      The new pool, and the returned images [B, H, W, C].

    Source: Shrivastava et al. 2017, section 2.3, arXiv:1612.07828, one image at a time
    as in Zhu et al. 2017, section 4, arXiv:1703.10593.
    """
    if not pool:
        return pool, images
    size = len(pool.images)

    def one(pool: Pool, new: tuple[Array, Array]) -> tuple[Pool, Array]:
        image, key = new
        coin_key, place_key = jax.random.split(key)
        filling = pool.count < size
        drawn = jax.random.randint(place_key, (), 0, size)
        place = jnp.where(filling, pool.count, drawn)
        old = pool.images[place]
        swap = jax.random.bernoulli(coin_key) & ~filling
        stored = jnp.where(filling | swap, image, old)
        pool = Pool(pool.images.at[place].set(stored), pool.count + filling)
        return pool, jnp.where(swap, old, image)

    return lax.scan(one, pool, (images, keys))

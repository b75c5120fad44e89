"""Laws of the image pool, against a loop over a Python list."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from diffusion_jax.objectives import image_pool

query = jax.jit(image_pool.query)


def numbered(first, n):
    """Images [n, 1, 2, 1] whose pixels are their number."""
    numbers = np.arange(first, first + n, dtype=np.float32)
    return np.tile(numbers[:, None, None, None], (1, 1, 2, 1))


@functools.partial(jax.jit, static_argnums=1)
def keys_of(seed, n):
    return jax.random.split(jax.random.key(seed), n)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def coins_of(key, size):
    """Whether an image is swapped, and with which place, for a pool of that size."""
    coin_key, place_key = jax.random.split(key)
    return jax.random.bernoulli(coin_key), jax.random.randint(place_key, (), 0, size)


def reference(pool, size, images, coins, places):
    """A list grows to its size; then a coin decides between the image and an old one,
    which the image replaces."""
    returned = []
    for image, swap, place in zip(images, coins, places):
        if len(pool) < size:
            pool.append(image)
            returned.append(image)
        elif swap:
            returned.append(pool[place])
            pool[place] = image
        else:
            returned.append(image)
    return returned


@hypothesis.given(st.sampled_from([(1, 3), (3, 2)]), st.integers(0, 1000))
@hypothesis.settings(max_examples=6, deadline=None)
def test_it_is_the_published_algorithm(size_and_n, seed):
    """Over several batches the pool returns and keeps what the list does, with the same
    coins; every returned image was put in before."""
    size, n = size_and_n
    pool, listed, put_in = image_pool.empty(size, (1, 2, 1)), [], set()
    for batch in range(4):
        images, keys = numbered(1 + batch * n, n), keys_of(seed + batch, n)
        coins, places = coins_of(keys, size)
        pool, returned = query(pool, images, keys)
        expected = reference(listed, size, images, coins, places)
        np.testing.assert_array_equal(returned, expected)
        np.testing.assert_array_equal(pool.images[: len(listed)], listed)
        assert pool.count == len(listed) == min(size, (batch + 1) * n)
        put_in |= set(np.ravel(images).tolist())
        assert set(np.ravel(returned).tolist()) <= put_in


def test_filling():
    """Until it is full, a pool returns the images it is given, in order, also within
    the batch that fills it."""
    pool = image_pool.empty(5, (1, 2, 1))
    for first in (1, 3):
        images = numbered(first, 2)
        pool, returned = query(pool, images, keys_of(first, 2))
        np.testing.assert_array_equal(returned, images)
    np.testing.assert_array_equal(pool.images[:4], numbered(1, 4))
    pool, returned = query(pool, numbered(5, 2), keys_of(9, 2))
    assert pool.count == 5
    np.testing.assert_array_equal(returned[0], numbered(5, 1)[0])


def test_no_pool():
    """A pool of size 0 returns its input and stores nothing."""
    pool, images = image_pool.empty(0, (1, 2, 1)), numbered(1, 3)
    after, returned = query(pool, images, keys_of(0, 3))
    np.testing.assert_array_equal(returned, images)
    assert pool == after == ()  # no array of size 0, which could not be saved


@pytest.fixture(scope="module")
def long_run():
    """The age of each of 4000 images that a full pool of ten returns."""
    n, size = 4000, 10
    empty = image_pool.empty(size, (1, 2, 1))
    _, returned = query(empty, numbered(0, size + n), keys_of(1, size + n))
    return (np.arange(size + n) - np.asarray(returned)[:, 0, 0, 0])[size:]


def test_half_are_new(long_run):
    """A full pool returns the new image with probability 1/2, within 5 sigma."""
    share = np.mean(long_run == 0)
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(len(long_run))


def test_old_images_are_drawn_evenly(long_run):
    """A place is replaced with probability 1/20 per image, so the age of old images is
    geometric with mean 20: within 5 sigma."""
    waited = long_run[200:][long_run[200:] > 0]
    assert abs(np.mean(waited) - 20) < 5 * 20 / np.sqrt(len(waited))


def test_nothing_comes_out_twice(long_run):
    """An image that was swapped out does not return."""
    born = np.arange(len(long_run)) - long_run  # in the order of entering
    old = born[long_run > 0]
    assert len(np.unique(old)) == len(old)

"""Per-example PRNG keys, derived from the run's key and each example's global index.

An example's random numbers depend neither on the rest of the batch nor on the number of
devices. (Keys must be threefry: under `vmap`, all rbg keys draw the same numbers.)
"""

import jax
from jax import Array


def example_keys(key: Array, index: Array) -> Array:
    """Derives one key per example, [B], from its global index, i32[B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fold_in(keys: Array, number: Array) -> Array:
    """Folds the same number, such as a step number, into every key: [B] -> [B]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Draws standard normal noise for each key: [B] -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def uniform(keys: Array, shape: tuple[int, ...] = ()) -> Array:
    """Draws uniformly from [0, 1) for each key: [B] -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def gumbel(keys: Array, shape: tuple[int, ...]) -> Array:
    """Draws standard Gumbel noise for each key: [B] -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)

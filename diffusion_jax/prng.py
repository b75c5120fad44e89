"""Random numbers per example: a key from the run's key and the example's global index.

What is drawn for an example depends neither on its neighbours in the batch nor on the
number of devices. (Keys must be threefry: rbg keys under `vmap` all draw the same.)
"""

import jax
from jax import Array


def example_keys(key: Array, index: Array) -> Array:
    """Derives one key per example, [B], from its global index, i32[B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fold_in(keys: Array, number: Array) -> Array:
    """Folds one number, such as a step's, into every key: [B] -> [B]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Draws standard normal noise of that shape for each key: [B] -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def uniform(keys: Array, shape: tuple[int, ...] = ()) -> Array:
    """Draws from [0, 1) for each key: [B] -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)

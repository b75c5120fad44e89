"""Group normalisation: equal to Flax's, in value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.models.norms import GroupNorm

EPSILON = 1e-6


def gradients(norm, params, x, weights):
    def loss(params, x):
        return jnp.sum(weights * nn.swish(norm.apply({"params": params}, x)))

    return jax.value_and_grad(loss, (0, 1))(params, x)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.sampled_from([(1, 4, 4), (3, 5, 2), (2, 8, 8), (2, 6)]),
    groups=st.sampled_from([1, 2, 8]),
    size=st.integers(1, 5),
    offset=st.floats(-3, 3),
    seed=st.integers(0, 2**31 - 1),
)
def test_equals_flax_in_value_and_gradient(shape, groups, size, offset, seed):
    """Law: the same function as Flax's GroupNorm, in float64 to rounding."""
    with jax.enable_x64(True):
        compare(shape, groups, groups * size, offset, np.random.default_rng(seed))


def compare(shape, groups, channels, offset, rng):
    x = jnp.asarray(rng.normal(offset, 1.0, (*shape, channels)))
    weights = jnp.asarray(rng.normal(size=x.shape))
    params = {
        "scale": jnp.asarray(rng.normal(size=channels)),
        "bias": jnp.asarray(rng.normal(size=channels)),
    }
    ours = GroupNorm(groups, EPSILON, jnp.float64)
    flax = nn.GroupNorm(groups, epsilon=EPSILON, dtype=jnp.float64)
    found = gradients(ours, params, x, weights)
    expected = gradients(flax, params, x, weights)
    scale = 1 + max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7 * scale)


def test_parameters_have_the_names_of_flax():
    """Law: weights of either can be loaded into the other."""
    x = jnp.zeros((1, 4, 4, 8))
    trees = [
        jax.eval_shape(norm.init, jax.random.key(0), x)
        for norm in (GroupNorm(2, EPSILON, jnp.float32), nn.GroupNorm(2))
    ]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_statistics_are_computed_in_float32(dtype):
    """Law: only the input and the output are rounded to bfloat16."""
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 32), dtype) + 4
    norm = GroupNorm(8, EPSILON, dtype)
    params = norm.init(jax.random.key(1), x)
    expected = GroupNorm(8, EPSILON, jnp.float32).apply(params, x.astype(jnp.float32))
    found = norm.apply(params, x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected.astype(dtype))

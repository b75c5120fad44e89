"""Laws of the small classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.classifier import ConvClassifier

NET = ConvClassifier(num_classes=3, channels=(4,), num_features=5)


@jax.jit
def apply(variables, x):
    """Features and logits."""
    return NET.apply(variables, x, method="features"), NET.apply(variables, x)


@pytest.fixture(scope="module")
def example() -> tuple:
    """Fresh variables, and six random 8x8 images."""
    x = np.random.default_rng(0).standard_normal((6, 8, 8, 1)).astype(np.float32)
    key = jax.random.key(0, impl="rbg")  # quicker to compile than threefry
    return jax.jit(NET.init)(key, x), x


@pytest.mark.parametrize(
    ("size", "channels", "expected"),
    [
        # (9 in + 1) out per convolution; pixels x channels + 1 per hidden unit.
        (8, (16, 32), 160 + 4_640 + (4 * 32 + 1) * 64 + 65 * 10),
        (28, (32, 64), 320 + 18_496 + (49 * 64 + 1) * 64 + 65 * 10),
    ],
)
def test_number_of_parameters_and_shapes(size, channels, expected):
    """Two halvings, 64 features, 10 logits; parameters counted by hand."""
    net = ConvClassifier(num_classes=10, channels=channels)
    x = jax.ShapeDtypeStruct((3, size, size, 1), jnp.float32)
    logits, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
    assert logits.shape == (3, 10)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == expected
    features = jax.eval_shape(lambda *a: net.apply(*a, method="features"), variables, x)
    assert features.shape == (3, 64)


def test_logits_are_affine_in_the_features(example):
    """Features are nonnegative, and the logits are an affine map of them."""
    features, logits = map(np.asarray, apply(*example))
    assert features.min() == 0 < features.max()
    out = example[0]["params"]["out"]
    expected = features @ np.asarray(out["kernel"]) + np.asarray(out["bias"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_examples_do_not_see_each_other(example):
    """An image's features and logits do not depend on the rest of the batch."""
    variables, x = example
    others = np.concatenate([x[:1], 3.0 - x[1:]])
    for ours, alone in zip(apply(variables, x), apply(variables, others)):
        np.testing.assert_allclose(ours[0], alone[0], rtol=1e-5, atol=1e-6)
        assert np.any(ours[1:] != alone[1:])

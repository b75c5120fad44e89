"""Laws of the small classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.classifier import ConvClassifier


def example(net: ConvClassifier, batch: int) -> tuple:
    """Fresh variables, and random 8x8 images."""
    x = np.random.default_rng(0).standard_normal((batch, 8, 8, 1)).astype(np.float32)
    key = jax.random.key(0, impl="rbg")  # quicker to compile than threefry
    return jax.jit(net.init)(key, x), x


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


def test_logits_are_affine_in_the_features():
    """Features are nonnegative, and the logits are an affine map of them."""
    net = ConvClassifier(num_classes=3, channels=(4,), num_features=5)
    variables, x = example(net, 6)
    features = np.asarray(net.apply(variables, x, method="features"))
    assert features.min() == 0 < features.max()
    out = variables["params"]["out"]
    expected = features @ np.asarray(out["kernel"]) + np.asarray(out["bias"])
    np.testing.assert_allclose(net.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_examples_do_not_see_each_other():
    """The first of three images has the same logits as in a batch of its own."""
    net = ConvClassifier(num_classes=3, channels=(4,))
    variables, x = example(net, 3)
    np.testing.assert_allclose(
        net.apply(variables, x)[:1], net.apply(variables, x[:1]), rtol=1e-5, atol=1e-6
    )

"""Laws of the fully connected networks, against the same layers in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.dense import (
    DenseAutoencoder,
    MLPDiscriminator,
    MLPGenerator,
    append_label,
    mlp_gan,
)


def draw(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def affine(h: np.ndarray, layer: dict) -> np.ndarray:
    return h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def random_params(net, *inputs) -> dict:
    """Parameters of standard deviation 0.3, including biases, which start at 0."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    leaves, tree = jax.tree.flatten(shapes)
    drawn = [0.3 * draw(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, drawn)


@pytest.mark.parametrize("variational", [False, True])
def test_number_of_parameters(variational):
    """784-500-20-500-784: (inputs + 1) outputs per layer, plus the log-variance."""
    net = DenseAutoencoder((28, 28, 1), variational)
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image)
    layers = [(784, 500), (500, 20), (20, 500), (500, 784)]
    layers += [(500, 20)] if variational else []
    # __call__ decodes only the mean, but it also initializes the log-variance.
    expected = sum((inputs + 1) * outputs for inputs, outputs in layers)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_autoencoder_is_its_layers():
    """encode and decode are affine maps with ReLU in between; outputs are unbounded."""
    net = DenseAutoencoder((2, 3, 2), True, hidden=(7, 5), num_latents=4)
    x = draw(3, 2, 3, 2)
    variables = random_params(net, x)
    params = variables["params"]
    mean, logvar = net.apply(variables, x, method="encode")
    h = x.reshape(3, 12)
    for name in ("encoder_0", "encoder_1"):
        h = np.maximum(affine(h, params[name]), 0)
    np.testing.assert_allclose(mean, affine(h, params["mean"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        logvar, affine(h, params["logvar"]), rtol=1e-4, atol=1e-5
    )
    assert params["decoder_0"]["kernel"].shape == (4, 5)  # the encoder's mirror
    h = np.asarray(mean)
    for name in ("decoder_0", "decoder_1"):
        h = np.maximum(affine(h, params[name]), 0)
    expected = affine(h, params["out"]).reshape(3, 2, 3, 2)
    decoded = net.apply(variables, mean, method="decode")
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.apply(variables, x), decoded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (5, 3), (4, 6, 1)])
def test_plain_autoencoder_of_any_shape(shape):
    """Points, signals and images are encoded and decoded; without `variational` there
    is no log-variance."""
    net = DenseAutoencoder(shape, False, hidden=(6,), num_latents=2)

    def run(x):
        variables = net.init(jax.random.key(0), x)
        return net.apply(variables, x, method="encode"), net.apply(variables, x)

    x = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    (mean, logvar), decoded = jax.eval_shape(run, x)
    assert mean.shape == (3, 2) and logvar is None and decoded.shape == (3, *shape)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("data_shape", [(2,), (3, 2, 1)])
def test_generator_is_its_layers(data_shape, bounded):
    """Noise and one-hot label, ReLU between affine maps, and a tanh if bounded."""
    net = MLPGenerator(data_shape, hidden=(6, 5), bounded=bounded, num_classes=3)
    z, label = 3 * draw(4, 2), np.array([2, 0, 1, 2])
    variables = random_params(net, z, label)
    assert variables.keys() == {"params"}
    params = variables["params"]
    h = np.concatenate([z, np.eye(3, dtype=np.float32)[label]], axis=1)
    for name in ("Dense_0", "Dense_1"):
        h = np.maximum(affine(h, params[name]), 0)
    expected = affine(h, params["out"]).reshape(4, *data_shape)
    expected = np.tanh(expected) if bounded else expected
    output = net.apply(variables, z, label, train=True)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_discriminator_is_its_layers():
    """Pixels and one-hot label, LeakyReLU of slope 0.2 between affine maps."""
    net = MLPDiscriminator(hidden=(6, 5), num_classes=3)
    x, label = draw(4, 3, 2, 1), np.array([2, 0, 1, 2])
    variables = random_params(net, x, label)
    assert variables.keys() == {"params"}
    h = np.concatenate([x.reshape(4, 6), np.eye(3, dtype=np.float32)[label]], axis=1)
    for name in ("Dense_0", "Dense_1"):
        h = affine(h, variables["params"][name])
        h = np.where(h > 0, h, 0.2 * h)
    expected = affine(h, variables["params"]["out"])[:, 0]
    output = net.apply(variables, x, label, train=True)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_networks_fit():
    """The discriminator scores what the generator outputs, with equal hidden layers.

    (inputs + 1) outputs per layer; 3 noise values and 2 classes in, 2 values out.
    """
    networks = mlp_gan((2,), None, (6,), False, 2)
    label = jax.ShapeDtypeStruct((4,), jnp.int32)
    x = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    counts = []
    for network in networks:
        x, variables = jax.eval_shape(
            network.init_with_output, jax.random.key(0), x, label
        )
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(variables)))
    assert x.shape == (4,)
    assert counts == [(5 + 1) * 6 + (6 + 1) * 2, (4 + 1) * 6 + (6 + 1) * 1]


def test_label_planes():
    """The one-hot label follows the channels of every pixel."""
    x, label = draw(2, 3, 4, 5), np.array([1, 0])
    joined = append_label(jnp.asarray(x), label, 2)
    assert joined.shape == (2, 3, 4, 7)
    np.testing.assert_array_equal(joined[..., :5], x)
    for example, expected in zip(joined[..., 5:], ([0, 1], [1, 0])):
        np.testing.assert_array_equal(example, np.tile(expected, (3, 4, 1)))


def test_label_or_no_label():
    """Without classes a label has no effect; with classes it is required."""
    x = jnp.asarray(draw(2, 3))
    np.testing.assert_array_equal(append_label(x, jnp.array([1, 0]), 0), x)
    with pytest.raises(
        ValueError, match="num_classes = 10, so the network needs labels"
    ):
        MLPDiscriminator((4,), num_classes=10).init(jax.random.key(0), x)

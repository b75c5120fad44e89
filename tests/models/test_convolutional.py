"""Laws of the convolutional autoencoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.convolutional import ConvAutoencoder, check_size


def image(*shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_number_of_parameters():
    """The book's networks for 28x28, by hand: 9 in out + out per convolution.

    Encoder 320 + 18,496 + 2 x 36,928 + 6,274 = 98,946; decoder 9,408 + 2 x 36,928 +
    18,464 + 289 = 102,017.
    """
    net = ConvAutoencoder((28, 28, 1), variational=False)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image(1, 28, 28, 1))
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(layer))
        for name, layer in shapes["params"].items()
    }
    encoder = sum(n for name, n in sizes.items() if name.startswith(("enc", "mean")))
    assert encoder == 98_946
    assert sum(sizes.values()) - encoder == 102_017


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 12, 3)])
def test_shapes(shape, variational):
    """Latents have Z numbers, and outputs have the shape of the images."""
    net = ConvAutoencoder(shape, variational, channels=(4, 8, 8, 8), num_latents=5)
    variables = jax.eval_shape(net.init, jax.random.key(0), image(1, *shape))

    def both(variables, x):
        mean, logvar = net.apply(variables, x, method="encode")
        return mean, logvar, net.apply(variables, mean, method="decode")

    mean, logvar, decoded = jax.eval_shape(both, variables, image(3, *shape))
    assert mean.shape == (3, 5) and decoded.shape == (3, *shape)
    assert logvar.shape == (3, 5) if variational else logvar is None


def test_decoder_mirrors_the_encoder():
    """The decoder's resolutions and channels are the encoder's in reverse order."""
    net = ConvAutoencoder(
        (16, 16, 3), False, channels=(4, 6, 7, 7), strides=(2, 1, 2, 2)
    )
    x = image(1, 16, 16, 3)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    _, seen = jax.eval_shape(
        lambda *args: net.apply(*args, capture_intermediates=True), variables, x
    )
    seen = seen["intermediates"]

    def after(name):
        return [seen[f"{name}_{i}"]["__call__"][0].shape[1:] for i in range(4)]

    assert after("encoder") == [(8, 8, 4), (8, 8, 6), (4, 4, 7), (2, 2, 7)]
    assert after("decoder") == [(4, 4, 7), (8, 8, 6), (8, 8, 4), (16, 16, 3)]


def test_output_is_raw():
    """Outputs are linear in the last layer, and so not bounded."""
    net = ConvAutoencoder((8, 8, 1), False, channels=(2, 3), strides=(1, 2))
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    key = jax.random.key(0, impl="rbg")  # quicker to compile than threefry
    variables = jax.jit(net.init)(key, x)
    apply = jax.jit(net.apply)
    output = apply(variables, x)
    last = jax.tree.map(lambda leaf: 1000.0 * leaf, variables["params"]["decoder_1"])
    scaled = apply({"params": variables["params"] | {"decoder_1": last}}, x)
    assert np.abs(scaled).max() > 10
    np.testing.assert_allclose(scaled, 1000.0 * output, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "strides", "factor", "nearby"),
    [
        (30, (1, 2, 2, 1), 4, (28, 32)),
        (28, (2, 2, 2), 8, (24, 32)),
        (2, (2, 2), 4, (4,)),
    ],
)
def test_refuses_what_strides_do_not_divide(size, strides, factor, nearby):
    """The error suggests the nearest sizes, and those are accepted."""
    uses = " or ".join(map(str, nearby))
    message = f"multiples of {factor}, but data.image_size = {size}: use {uses},"
    with pytest.raises(ValueError, match=message):
        check_size(size, strides)
    net = ConvAutoencoder((size, size, 1), False, (2,) * len(strides), strides)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), image(1, size, size, 1))
    for good in nearby:
        check_size(good, strides)


def test_refuses_other_strides():
    """A stride is 1 or 2."""
    with pytest.raises(ValueError, match="1 or 2"):
        check_size(16, (4,))


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [((8, 8, 1), (2, 3, 4), "must have the same length"), ((2,), (2, 3), "dense")],
)
def test_refuses_what_does_not_fit(shape, channels, message):
    """Channels and strides have the same length, and the data are images."""
    net = ConvAutoencoder(shape, False, channels, strides=(1, 2))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), image(1, *shape))

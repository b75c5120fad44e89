"""Laws of DCGAN's networks; tests/parity compares them with PyTorch's."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.dcgan import (
    DCGANDiscriminator,
    DCGANGenerator,
    dcgan,
    num_halvings,
)

BASES = {8: 4, 10: 5, 12: 6, 16: 4, 28: 7, 32: 4, 48: 6, 56: 7, 64: 4, 128: 4}


def draw(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shape_of(*shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def init_shapes(net, *inputs) -> dict:
    return jax.eval_shape(net.init, jax.random.key(0), *inputs)


def count(variables) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def random_variables(net, *inputs) -> dict:
    """Values with activations near 1, and running statistics other than 0 and 1."""
    flat = flax.traverse_util.flatten_dict(init_shapes(net, *inputs))
    rng = np.random.default_rng(3)

    def one(path, leaf):
        z = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1] == "kernel":
            # An output of a transposed convolution uses a quarter of its kernel.
            return z / np.sqrt(np.prod(leaf.shape) / max((1, *leaf.shape[2:])))
        return np.exp(0.3 * z) if path[-1] in ("scale", "var") else 0.3 * z

    drawn = {path: one(path, leaf) for path, leaf in flat.items()}
    return flax.traverse_util.unflatten_dict(drawn)


@pytest.mark.parametrize(("size", "base"), BASES.items())
def test_base(size, base):
    """Sizes are halved while even and at least 4 remain, by hand."""
    assert size >> num_halvings((size, size)) == base


@pytest.mark.parametrize("size", [0, 1, 4, 7, 9, 18, 30, 100, 36])
def test_refuses_sizes_without_a_base(size):
    """Sizes that do not halve to 4..7 are refused, and others suggested."""
    with pytest.raises(ValueError, match=f"data.image_size = {size} .* use 8, 16, 28"):
        num_halvings((size, size))


def test_both_sides_halve():
    """Height and width are halved equally often, to 4..7 pixels of the shorter side."""
    assert num_halvings((16, 24)) == num_halvings((24, 16)) == 2
    assert num_halvings((8, 64)) == 1
    for height, width in ((16, 22), (18, 16), (16, 15)):
        with pytest.raises(ValueError, match=f"= {height}x{width} cannot be halved"):
            num_halvings((height, width))


def test_number_of_parameters():
    """PyTorch's DCGAN, ngf = ndf = 64 and 100 numbers of noise: by hand.

    Kernels of 16 in out, without biases, and two numbers per normalized channel. G:
    16 (100 512 + 512 256 + 256 128 + 128 64 + 64 3) + 2 (512 + 256 + 128 + 64); D:
    16 (3 64 + 64 128 + 128 256 + 256 512 + 512) + 2 (128 + 256 + 512).
    """
    generator = DCGANGenerator((64, 64, 3), 64)
    discriminator = DCGANDiscriminator(64)
    assert count(init_shapes(generator, shape_of(1, 100))) == 3_576_704
    assert count(init_shapes(discriminator, shape_of(1, 64, 64, 3))) == 2_765_568


def test_maps_of_the_paper():
    """Figure 1 of the paper: 1024 maps of 4x4, 512 of 8x8, ... 3 of 64x64."""
    net = DCGANGenerator((64, 64, 3), width=128)
    variables = init_shapes(net, shape_of(1, 100))
    _, seen = jax.eval_shape(
        lambda *args: net.apply(*args, capture_intermediates=True),
        variables,
        shape_of(1, 100),
    )
    maps = [
        seen["intermediates"][name]["__call__"][0].shape[1:]
        for name in ("norm0", "up1", "up2", "up3", "out")
    ]
    expected = [(4, 4, 1024), (8, 8, 512), (16, 16, 256), (32, 32, 128), (64, 64, 3)]
    assert maps == expected


@pytest.mark.parametrize("num_classes", [0, 10])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (64, 64), (128, 128), (16, 24)])
def test_shapes(size, num_classes):
    """Images of the requested size and channels, and one logit per image."""
    label = jax.ShapeDtypeStruct((5,), jnp.int32)
    generator = DCGANGenerator((*size, 2), 4, num_classes)
    discriminator = DCGANDiscriminator(4, num_classes)
    images, _ = jax.eval_shape(
        generator.init_with_output, jax.random.key(0), shape_of(5, 11), label
    )
    assert images.shape == (5, *size, 2)
    logits, _ = jax.eval_shape(
        discriminator.init_with_output, jax.random.key(0), images, label
    )
    assert logits.shape == (5,)


def test_initial_weights():
    """Kernels are N(0, 0.02^2), within five standard errors; only norms have biases.

    Section 4 of the paper.
    """
    generator, discriminator = DCGANGenerator((8, 8, 1), 16), DCGANDiscriminator(16)
    for net, x in ((generator, draw(1, 25)), (discriminator, draw(1, 8, 8, 1))):
        key = jax.random.key(0, impl="rbg")  # quicker to compile than threefry
        params = jax.jit(net.init)(key, x)["params"]
        for layer in params.values():
            assert layer.keys() in ({"kernel"}, {"scale", "bias"})
            if "kernel" in layer:
                n = layer["kernel"].size
                assert abs(np.std(layer["kernel"]) - 0.02) < 5 * 0.02 / np.sqrt(2 * n)
                assert abs(np.mean(layer["kernel"])) < 5 * 0.02 / np.sqrt(n)


CASES = {  # network and input shape
    "generator": (DCGANGenerator((16, 16, 2), 4, momentum=0.5), (9,)),
    "discriminator": (DCGANDiscriminator(4, momentum=0.5), (16, 16, 2)),
    "without_norm": (DCGANDiscriminator(4, norm="none"), (16, 16, 2)),
}


@functools.partial(jax.jit, static_argnames=("name", "train"))
def apply(name, variables, x, train=False):
    """The output for eight inputs, and the statistics after it."""
    net, _ = CASES[name]
    return net.apply(variables, x, None, train, mutable=["batch_stats"])


@pytest.mark.parametrize("name", CASES)
def test_dependence_on_the_batch(name):
    """Only in training, and if normalized, an output depends on the other examples."""
    net, shape = CASES[name]
    x = draw(8, *shape)
    variables = random_variables(net, x)
    others = np.concatenate([x[:1], 3.0 + 2.0 * draw(7, *shape, seed=1)])

    def moved(train):
        outputs = [
            apply(name, variables, inputs, train)[0][0] for inputs in (x, others)
        ]
        return np.max(np.abs(outputs[0] - outputs[1]))

    assert moved(train=False) < 1e-5
    assert (moved(train=True) > 1e-2) == ("batch_stats" in variables)


def test_without_norm():
    """norm="none" leaves biases in their place, and no statistics."""
    net, shape = CASES["without_norm"]
    variables = init_shapes(net, draw(1, *shape))
    assert variables.keys() == {"params"}
    layers = variables["params"].values()
    assert all(layer.keys() == {"kernel", "bias"} for layer in layers)
    message = "Unknown model.disc_norm 'layer'. Known: batch, none."
    with pytest.raises(ValueError, match=message):
        init_shapes(net.clone(norm="layer"), draw(1, *shape))


def test_images_are_bounded_and_logits_are_not():
    """Weights scaled by 100 drive images to -1 and 1, and logits far from 0."""
    results = []
    for name in ("generator", "discriminator"):
        net, shape = CASES[name]
        variables = random_variables(net, draw(1, *shape))
        out = jax.tree.map(lambda leaf: 100 * leaf, variables["params"]["out"])
        large = variables | {"params": variables["params"] | {"out": out}}
        results.append(np.abs(apply(name, large, draw(8, *shape))[0]))
    assert 0.99 < results[0].max() <= 1.0
    assert results[1].max() > 5.0


def test_label_is_more_noise_and_more_channels():
    """A conditional network is an unconditional one with K more inputs, the one-hot
    label."""
    label = np.array([2, 0, 1])
    one_hot = np.eye(3, dtype=np.float32)[label]
    planes = np.broadcast_to(one_hot[:, None, None, :], (3, 8, 8, 3))
    for make, x, code in (
        (functools.partial(DCGANGenerator, (8, 8, 1), 4), draw(3, 5), one_hot),
        (functools.partial(DCGANDiscriminator, 4), draw(3, 8, 8, 1), planes),
    ):
        conditional, plain = make(num_classes=3), make()
        variables = random_variables(conditional, x, label)
        expected = jax.jit(plain.apply)(variables, np.concatenate([x, code], axis=-1))
        output = jax.jit(conditional.apply)(variables, x, label)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_networks_fit():
    """The discriminator scores what the generator outputs; both know the classes and
    the axis of devices."""
    generator, discriminator = dcgan((28, 28, 2), "devices", 4, "batch", 10)
    label = jax.ShapeDtypeStruct((3,), jnp.int32)
    x, of_g = jax.eval_shape(
        generator.init_with_output, jax.random.key(0), shape_of(3, 5), label
    )
    logits, of_d = jax.eval_shape(
        discriminator.init_with_output, jax.random.key(0), x, label
    )
    assert x.shape == (3, 28, 28, 2) and logits.shape == (3,)
    assert of_g["params"]["project"]["kernel"].shape[0] == 5 + 10
    assert of_d["params"]["down0"]["kernel"].shape == (4, 4, 2 + 10, 4)
    assert generator.axis_name == discriminator.axis_name == "devices"
    with pytest.raises(ValueError, match=r"shape \(2,\): use model.name = mlp"):
        dcgan((2,), None, 4, "batch", 0)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_devices_are_one_batch(name):
    """With axis_name, eight shards give the output of one batch.

    And the same running statistics, which keep 0.5 of the old ones.
    """
    net, shape = CASES[name]
    variables = random_variables(net, draw(1, *shape))
    x = draw(8, *shape)
    whole, new = apply(name, variables, x, train=True)

    def shared(x):
        net_ = net.clone(axis_name="devices")
        return net_.apply(variables, x, None, True, mutable=["batch_stats"])

    shards, news = jax.pmap(shared, axis_name="devices")(x.reshape(8, 1, *shape))
    np.testing.assert_allclose(shards.reshape(whole.shape), whole, rtol=1e-4, atol=1e-5)
    first = jax.tree.map(lambda leaf: leaf[0], news)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(new)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

"""Laws of the image-to-image networks; tests/parity compares them with PyTorch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.translation import (
    PatchDiscriminator,
    ResNetGenerator,
    UNetGenerator,
    check_patch_size,
    check_resnet_size,
    check_unet_size,
)

SMALL = {
    "resnet": ResNetGenerator(2, base_channels=4, num_blocks=1, num_downsamplings=1),
    "unet": UNetGenerator(2, base_channels=4, num_levels=3),
    "patch": PatchDiscriminator(base_channels=4, num_layers=2),
}


def draw(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def image(*shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def init_shapes(net, *shape) -> dict:
    return jax.eval_shape(net.init, jax.random.key(0), image(*shape))


def output_shape(net, *shape) -> tuple[int, ...]:
    key = jax.random.key(0)
    return jax.eval_shape(net.init_with_output, key, image(*shape))[0].shape


def random_params(net, *shape) -> dict:
    """Weights that keep activations near 1, and nonzero biases."""
    leaves, tree = jax.tree.flatten(init_shapes(net, *shape))
    drawn = []
    for i, leaf in enumerate(leaves):
        z = draw(*leaf.shape, seed=i)
        drawn.append(z / np.sqrt(leaf.size / leaf.shape[-1]) if z.ndim > 1 else 0.2 * z)
    return jax.tree.unflatten(tree, drawn)


def conv(kernel: int, inputs: int, outputs: int) -> int:
    """Weights and biases of a convolution, transposed or not."""
    return kernel**2 * inputs * outputs + outputs


def unet_count(channels: int, features: list[int]) -> int:
    """4x4 kernels; a decoder layer sees the layer below and the skip connection."""
    down = sum(conv(4, a, b) for a, b in zip([channels, *features], features))
    bottom = conv(4, features[-1], features[-2])
    middle = zip(features[1:-1], features[:-2])
    up = bottom + sum(conv(4, 2 * a, b) for a, b in middle)
    return down + up + conv(4, 2 * features[0], channels)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (ResNetGenerator(3), 11_378_179),
        (PatchDiscriminator(), 2_764_737),
        (UNetGenerator(3), unet_count(3, [64, 128, 256, 512, 512, 512, 512, 512])),
    ],
    ids=["resnet", "patch", "unet"],
)
def test_number_of_parameters(net, expected):
    """They are the authors' networks for 256 pixels.

    ResNet: conv(7, 3, 64) + conv(3, 64, 128) + conv(3, 128, 256), 18 conv(3, 256, 256)
    and their mirror images; PatchGAN: conv(4, 3, 64), conv(4, 64, 128), ...,
    conv(4, 512, 1).
    """
    shapes = init_shapes(net, 1, 256, 256, 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (64, 24), (128, 128)])
@pytest.mark.parametrize(
    "net",
    [ResNetGenerator(5, 4, num_blocks=2), UNetGenerator(5, 4, num_levels=2)],
    ids=["resnet", "unet"],
)
def test_generators_keep_the_size(net, size):
    """The output has the input's height and width, and the requested channels."""
    assert output_shape(net, 3, *size, 1) == (3, *size, 5)


@pytest.mark.parametrize(
    ("num_layers", "size", "scores"),
    [(3, 256, 30), (3, 24, 1), (3, 70, 6), (2, 28, 5), (1, 8, 2), (1, 6, 1)],
)
def test_number_of_scores(num_layers, size, scores):
    """L strides of 2 halve, rounding down; two layers take a pixel each: n/2^L - 2.

    256 pixels have 30x30 scores in the authors' code.
    """
    net = PatchDiscriminator(base_channels=2, num_layers=num_layers)
    assert output_shape(net, 2, size, size, 3) == (2, scores, scores)


def without_norms(following, args, kwargs, context):
    """Skips instance norms, which make every pixel depend on all others."""
    if isinstance(context.module, nn.InstanceNorm):
        return args[0]
    return following(*args, **kwargs)


@pytest.mark.parametrize(("num_layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_patch_of_a_score(num_layers, field):
    """A score depends on 16, 34 or 70 pixels: (field - 1) stride + 4 per layer.

    Backwards from one score: 4 and 7 by the layers of stride 1, then 16, 34, 70.
    """
    net = PatchDiscriminator(base_channels=2, num_layers=num_layers)
    shape = (1, 96, 96, 1)
    params = random_params(net, *shape)

    def score(x):
        scores = net.apply(params, x)
        middle = scores.shape[1] // 2
        return scores[0, middle, middle]

    with nn.intercept_methods(without_norms):
        gradient = np.asarray(jax.jit(jax.grad(score))(draw(*shape)))[0, :, :, 0]
    for axis in (0, 1):
        (touched,) = np.nonzero(np.any(gradient, axis=axis))
        assert np.ptp(touched) + 1 == len(touched) == field


@pytest.mark.parametrize("net", SMALL.values(), ids=SMALL.keys())
def test_examples_do_not_see_each_other(net):
    """An output does not depend on other examples of the batch; there is no state."""
    x = draw(3, 16, 16, 1)
    params = random_params(net, *x.shape)
    assert params.keys() == {"params"}
    others = np.concatenate([x[:1], 3.0 + 2.0 * draw(2, 16, 16, 1, seed=1)])
    apply = jax.jit(net.apply)
    together, apart = apply(params, x), apply(params, others)
    np.testing.assert_allclose(apart[0], together[0], rtol=1e-4, atol=1e-5)
    assert np.std(apart[1:] - together[1:]) > 0.01


def test_resnet_ignores_contrast_and_brightness():
    """G(a x + b) = G(x), a > 0: an instance norm follows the first convolution.

    It needs reflection padding: zeros around the image would reveal its brightness.
    """
    net, x = SMALL["resnet"], draw(2, 8, 8, 1)
    params = random_params(net, *x.shape)
    apply = jax.jit(net.apply)
    output = apply(params, x)
    np.testing.assert_allclose(apply(params, 2.0 * x + 5.0), output, atol=1e-3)
    assert np.std(output) > 0.1


def dropped(net, size):
    """Where the masks of dropout are drawn: {name of the module: features}."""
    found = {}

    def spy(following, args, kwargs, context):
        if isinstance(context.module, ExampleDropout):
            found["/".join(context.module.path)] = args[0].shape
        return following(*args, **kwargs)

    with nn.intercept_methods(spy):
        init_shapes(net, 1, size, size, 1)
    return found


def test_layers_with_dropout():
    """Isola et al. 2017, appendix 6.1.1: of the decoder CD512-CD512-CD512-C512-C256-
    C128-C64 of eight levels the first three layers; in the ResNet each block."""
    shapes = dropped(UNetGenerator(3), 256)
    assert list(shapes.values()) == [(1, n, n, 512) for n in (2, 4, 8)]
    assert len(dropped(UNetGenerator(3, num_levels=2), 8)) == 1
    blocks = dropped(ResNetGenerator(3, 4, num_blocks=3), 8)
    assert list(blocks) == [f"block{i}/dropout" for i in range(3)]


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_dropout(name):
    """Dropout adds no parameters, acts where examples have an index, and on each
    example by its index alone; its rate 0 changes nothing."""
    net, x = SMALL[name].clone(dropout=0.5), draw(3, 16, 16, 1)
    params = random_params(SMALL[name], *x.shape)
    shapes = jax.tree.map(jnp.shape, init_shapes(net, *x.shape))
    assert shapes == jax.tree.map(jnp.shape, params)
    key, index = {"dropout": jax.random.key(3)}, np.arange(3)
    apply = jax.jit(
        lambda net, *args: net.apply(params, *args, rngs=key), static_argnums=0
    )
    plain, noisy = apply(net, x), apply(net, x, index)
    np.testing.assert_array_equal(plain, apply(SMALL[name], x))
    np.testing.assert_array_equal(plain, apply(SMALL[name], x, index))
    assert np.all(np.abs(noisy - plain).max(axis=(1, 2, 3)) > 0.01)
    backwards = apply(net, x[::-1], index[::-1])
    np.testing.assert_allclose(backwards[::-1], noisy, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_output_is_bounded(name):
    """A tanh keeps images in [-1, 1], whatever the weights."""
    net, x = SMALL[name], draw(1, 16, 16, 1)
    params = jax.tree.map(lambda leaf: 100 * leaf, random_params(net, *x.shape))
    assert 0.99 < np.abs(jax.jit(net.apply)(params, x)).max() <= 1.0


def test_initial_weights():
    """Kernels are N(0, 0.02^2), within five standard errors, and biases 0."""
    key = jax.random.key(0, impl="rbg")  # quicker to compile than threefry
    net = UNetGenerator(2, base_channels=8, num_levels=2)
    params = jax.jit(net.init)(key, draw(1, 8, 8, 1))["params"]
    for layer in params.values():
        assert not np.any(layer["bias"])
        n = layer["kernel"].size
        assert abs(np.std(layer["kernel"]) - 0.02) < 5 * 0.02 / np.sqrt(2 * n)


@pytest.mark.parametrize(
    ("check", "number", "good", "bad", "message"),
    [
        (check_resnet_size, 2, (8, 28, 256), (4, 6, 30), "of 4 and at least 8"),
        (check_resnet_size, 1, (4, 6, 28), (2, 3, 27), "of 2 and at least 4"),
        (check_resnet_size, 0, (4, 5, 7), (1, 2, 3), "of 1 and at least 4"),
        (check_unet_size, 3, (8, 24, 64), (4, 28, 30), "multiple of 8"),
        (check_patch_size, 3, (24, 25, 70), (8, 16, 23), "at least 24x24 pixels"),
        (check_patch_size, 1, (6, 7, 8), (1, 4, 5), "at least 6x6 pixels"),
    ],
)
def test_refuses_sizes(check, number, good, bad, message):
    """Sizes that cannot be halved, padded or scored are refused."""
    for size in good:
        check(size, number)
    for size in bad:
        with pytest.raises(ValueError, match=rf"{message}.* (is|=) {size}\."):
            check(size, number)


@pytest.mark.parametrize("net", SMALL.values(), ids=SMALL.keys())
@pytest.mark.parametrize("shape", [(1, 16, 3, 1), (1, 3, 16, 1)])
def test_networks_check_both_sides(net, shape):
    """A height or a width that does not fit is refused."""
    with pytest.raises(ValueError, match=r"data\.image_size .* 3\."):
        init_shapes(net, *shape)

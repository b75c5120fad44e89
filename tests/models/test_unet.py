"""Laws of the U-Net; tests/parity compares it with PyTorch's."""

import functools
import math
import re

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from jax import Array
from jax.extend.core import jaxprs_in_params

from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.unet import REMATS, UNet, time_embedding

CIFAR10 = dict(
    base_channels=128,
    channel_multipliers=(1, 2, 2, 2),
    num_blocks=2,
    attention_resolutions=(16,),
    dropout=0.1,
    out_channels=3,
)
LARGE = CIFAR10 | dict(channel_multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
TINY = dict(
    base_channels=8,
    channel_multipliers=(1,),
    num_blocks=1,
    attention_resolutions=(),
    dropout=0.5,
    out_channels=3,
)
SMALL = TINY | dict(channel_multipliers=(1, 2), attention_resolutions=(4,))


def arguments(batch: int, height: int, width: int, channels: int) -> tuple:
    """The shapes and types of (x, t)."""
    x = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
    return x, jax.ShapeDtypeStruct((batch,), jnp.int32)


@functools.cache
def init_shapes(net: UNet, size: int, channels: int = 3) -> dict:
    """The parameters' shapes; nothing is allocated."""
    shapes = jax.eval_shape(
        net.init, jax.random.key(0), *arguments(1, size, size, channels)
    )
    return shapes["params"]


def example(batch: int, size: int, channels: int = 3) -> tuple[Array, Array]:
    """Random (x, t)."""
    x = np.random.default_rng(1).standard_normal((batch, size, size, channels))
    t = np.linspace(0, 999, batch)
    return jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.int32)


def random_params(net: UNet, size: int, channels: int = 3) -> dict:
    """Parameters without the zeros of a fresh network, which would hide mistakes."""
    rng = np.random.default_rng(2)

    def draw(leaf):
        fan_in = math.prod(leaf.shape[:-1])  # 1 for biases and scales
        values = rng.standard_normal(leaf.shape) / math.sqrt(fan_in)
        return jnp.asarray(values, jnp.float32)

    return {"params": jax.tree.map(draw, init_shapes(net, size, channels))}


@jax.jit
def apply_tiny(params, x, t):
    return UNet(**TINY).apply(params, x, t)


@jax.jit
def apply_with_dropout(params, x, t, index, key):
    """The output, and what the dropout layers return."""
    return UNet(**TINY).apply(
        params,
        x,
        t,
        dropout_index=index,
        rngs={"dropout": key},
        capture_intermediates=lambda module, _: module.name == "dropout",
    )


@functools.cache
def fresh_variables():
    """Initial values of the network TINY."""
    key = jax.random.key(1, impl="rbg")  # quicker to compile than threefry
    return jax.jit(UNet(**TINY).init)(key, *example(4, 8))


def count_macs(jaxpr) -> int:
    """Multiply-accumulates of the convolutions and matrix products, including padding.

    XLA's own cost analysis omits the products with padding, 6 per cent here.
    """
    total = 0
    for equation in jaxpr.eqns:
        shapes = [variable.aval.shape for variable in equation.invars]
        if equation.primitive.name == "conv_general_dilated":
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            products = math.prod(shapes[1]) // shapes[1][out_axis]
        elif equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            products = math.prod(shapes[0][axis] for axis in contracted)
        else:
            total += sum(map(count_macs, jaxprs_in_params(equation.params)))
            continue
        total += math.prod(equation.outvars[0].aval.shape) * products
    return total


class Reference(parameterized.TestCase):
    @parameterized.named_parameters(
        ("cifar10", CIFAR10, 32, 35_746_307),
        ("cifar10_learned_variance", CIFAR10 | dict(out_channels=6), 32, 35_749_766),
        ("256x256", LARGE, 256, 113_673_219),
    )
    def test_number_of_parameters(self, config, size, expected):
        """Ho et al.'s networks, 35.7 and 114 million in the paper, exactly."""
        leaves = jax.tree.leaves(init_shapes(UNet(**config), size))
        assert sum(leaf.size for leaf in leaves) == expected

    @parameterized.named_parameters(
        ("cifar10", CIFAR10, 32, 6.22e9), ("256x256", LARGE, 256, 248.5e9)
    )
    def test_multiply_accumulates(self, config, size, expected):
        """One image costs as much as in Ho et al.'s network, within 1 per cent."""
        net = UNet(**config)
        params = {"params": init_shapes(net, size)}
        traced = jax.make_jaxpr(net.apply)(params, *arguments(1, size, size, 3))
        assert count_macs(traced.jaxpr) == pytest.approx(expected, rel=0.01)


class TimeEmbedding(parameterized.TestCase):
    def test_values(self):
        """sin(t f) and cos(t f), f from 1 to 1/10000: the authors' values at t = 1."""
        embedding = time_embedding(jnp.array([0, 1, 500]), 128)
        np.testing.assert_array_equal(embedding[0, :64], np.zeros(64))
        np.testing.assert_array_equal(embedding[0, 64:], np.ones(64))
        np.testing.assert_allclose(
            embedding[1, [0, 64]], [0.841471, 0.540302], atol=1e-6
        )
        np.testing.assert_allclose(
            embedding[2, [63, 127]], [np.sin(0.05), np.cos(0.05)], rtol=1e-5
        )

    @parameterized.parameters(jnp.int32, jnp.float32)
    def test_timesteps_have_distinct_embeddings(self, dtype):
        """1000 timesteps have 1000 float32 embeddings of squared norm features / 2."""
        embedding = np.asarray(time_embedding(jnp.arange(1000).astype(dtype), 128))
        assert embedding.dtype == np.float32
        assert len(np.unique(embedding, axis=0)) == 1000
        np.testing.assert_allclose(np.sum(embedding**2, axis=-1), 64, rtol=1e-5)


class Shapes(chex.TestCase):
    @parameterized.parameters(
        ((28, 28), 1, 1, jnp.bfloat16),
        ((32, 32), 3, 6, jnp.float32),
        ((16, 64), 3, 3, jnp.bfloat16),
        ((64, 16), 1, 6, jnp.float32),
    )
    def test_output(self, size, channels, out_channels, dtype):
        """Any resolution that halves; float32 parameters and output, dtype inside."""
        net = UNet(**SMALL | dict(out_channels=out_channels), dtype=dtype)

        def run(x, t):
            key = jax.random.key(0)
            return net.init_with_output(key, x, t, capture_intermediates=True)

        output, variables = jax.eval_shape(run, *arguments(5, *size, channels))
        assert output.shape == (5, *size, out_channels)
        assert output.dtype == jnp.float32
        params = jax.tree.leaves(variables["params"])
        assert {leaf.dtype for leaf in params} == {jnp.dtype("float32")}
        inner = flax.traverse_util.flatten_dict(variables["intermediates"])
        del inner[("__call__",)]
        assert {leaf.dtype for (leaf,) in inner.values()} == {jnp.dtype(dtype)}

    def test_float64(self):
        """With dtype float64 the output is float64, too."""
        jax.config.update("jax_enable_x64", True)
        self.addCleanup(jax.config.update, "jax_enable_x64", False)
        net = UNet(**TINY, dtype=jnp.float64)
        params = {"params": init_shapes(net, 8)}
        assert (
            jax.eval_shape(net.apply, params, *arguments(1, 8, 8, 3)).dtype == "float64"
        )

    @parameterized.named_parameters(("with_jit", True), ("without_jit", False))
    def test_fresh_network_predicts_almost_zero(self, with_jit):
        """The last layer starts with variance 1e-10: outputs are about 1e-5.

        The activations before it are about 1 because of the last norm.
        """
        net = UNet(**TINY)
        x, t = example(4, 8)
        output = (apply_tiny if with_jit else net.apply)(fresh_variables(), x, t)
        chex.assert_shape(output, (4, 8, 8, 3))
        chex.assert_type(output, jnp.float32)
        assert 1e-7 < np.max(np.abs(output)) < 1e-4

    def test_bfloat16_is_near_float32(self):
        """bfloat16 rounds by 0.4 per cent: a few per cent over all layers."""
        x, t = example(4, 8)
        params = random_params(UNet(**TINY), 8)
        exact = apply_tiny(params, x, t)
        rough = jax.jit(UNet(**TINY, dtype=jnp.bfloat16).apply)(params, x, t)
        error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
        assert 1e-4 < error < 0.05

    @parameterized.parameters((30, 32, 3), (32, 30, 3), (2, 2, 3), (8, 4), (2,))
    def test_refuses_what_cannot_be_halved(self, *shape):
        """Data are images whose height and width are divisible by 2^(levels - 1)."""
        net = UNet(**TINY | dict(channel_multipliers=(1, 1, 1)))
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        t = jax.ShapeDtypeStruct((1,), jnp.int32)
        what = "divisible by 4" if len(shape) == 3 else r"needs images \[H, W, C\]"
        message = rf"{what}.*shape {re.escape(str(shape))}"
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(net.init, jax.random.key(0), x, t)


@pytest.mark.parametrize(
    ("resolutions", "levels"),
    [((), ()), ((16,), (0,)), ((8, 4), (1, 2)), ((5, 32), ())],
)
def test_attention_resolutions(resolutions, levels):
    """Attention follows every block at those resolutions and the middle's first one."""
    config = TINY | dict(
        channel_multipliers=(1, 2, 2), attention_resolutions=resolutions
    )
    modules = init_shapes(UNet(**config), 16).keys()
    expected = {"middle_block0_attention"}
    for level in levels:
        expected |= {f"down{level}_block0_attention"}
        expected |= {f"up{level}_block{i}_attention" for i in range(2)}
    assert {name for name in modules if "attention" in name} == expected


def test_examples_do_not_see_each_other():
    """Norms and attention do not mix the examples of a batch."""
    net = UNet(**SMALL)
    x, t = example(3, 8)
    apply = jax.jit(net.apply)
    params = random_params(net, 8)
    together = apply(params, x, t)
    others = apply(params, x.at[1:].multiply(-3.0), t.at[1:].set(7))
    np.testing.assert_allclose(others[0], together[0], rtol=1e-4, atol=1e-5)
    assert np.all(np.std(others[1:] - together[1:], axis=(1, 2, 3)) > 0.1)


def test_label():
    """A label's embedding is added to that of the timestep: zeros change nothing, and
    each example has its own."""
    net = UNet(**TINY, num_classes=2)
    x, t = example(4, 8)
    params = random_params(UNet(**TINY), 8)
    embedding = np.stack([np.zeros(32), np.ones(32), 2 * np.ones(32)])
    label = {"embedding": jnp.asarray(embedding, jnp.float32)}
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, t, {"label": t})
    params_of_labels = {"params": params["params"] | {"label": label}}
    chex.assert_trees_all_equal_shapes(shapes, params_of_labels)
    cond = {"label": jnp.array([0, 1, 0, 2])}
    output = jax.jit(net.apply)(params_of_labels, x, t, cond)
    difference = np.std(output - apply_tiny(params, x, t), axis=(1, 2, 3))
    assert np.all(difference[::2] < 1e-5) and np.all(difference[1::2] > 0.01)


class Dropout(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_mask_belongs_to_the_index(self):
        """A mask does not depend on the rest of the batch or the example's place in it.

        Hence it does not depend on the number of devices that share the batch.
        """
        dropout = ExampleDropout(0.3)
        x = jnp.ones((4, 100))
        index = jnp.array([7, 0, 123_456_789, 7])

        @self.variant
        def apply(x, index):
            return dropout.apply({}, x, index, rngs={"dropout": jax.random.key(0)})

        whole = apply(x, index)
        np.testing.assert_array_equal(whole[0], whole[3])
        np.testing.assert_array_equal(apply(x[::-1], index[::-1]), whole[::-1])
        halves = [apply(x[part], index[part]) for part in (slice(2), slice(2, 4))]
        np.testing.assert_array_equal(jnp.concatenate(halves), whole)
        assert np.any(whole[0] != whole[1]) and np.any(whole[0] != whole[2])

    def test_network_permutes_with_its_batch(self):
        """Permuting images, timesteps and indices permutes the outputs."""
        x, t = example(4, 8)
        index = jnp.array([3, 1, 4, 15])
        params = random_params(UNet(**TINY), 8)

        def apply(*args):
            return apply_with_dropout(params, *args)[0]

        key, other = jax.random.split(jax.random.key(0))
        output = apply(x, t, index, key)
        order = jnp.array([2, 0, 3, 1])
        permuted = apply(x[order], t[order], index[order], key)
        np.testing.assert_allclose(permuted, output[order], rtol=1e-4, atol=1e-5)
        moved = apply(x, t, index[order], key)  # other masks for the same images
        for different in (moved, apply(x, t, index, other)):
            assert np.all(np.std(different - output, axis=(1, 2, 3)) > 0.1)

    def test_off_without_index(self):
        """Without indices no rng is needed, and the rate has no effect: the program is
        that of a network with rate 0."""
        (x, t), index = example(4, 8), jnp.arange(4)
        net, without = UNet(**TINY), UNet(**TINY | dict(dropout=0.0))
        params = random_params(net, 8)

        def zero_rate(params, x, t):
            return without.apply(params, x, t, dropout_index=index)

        programs = [
            str(jax.make_jaxpr(f)(params, x, t)) for f in (net.apply, zero_rate)
        ]
        assert programs[0] == programs[1]

    @parameterized.parameters(0.1, 0.5)
    def test_keeps_the_expectation(self, rate):
        """A share `rate` becomes 0 and the rest is scaled up, so the mean is unchanged.

        Within 5 standard errors of a binomial, over all draws and at every place.
        """
        num_examples, num_places = 2000, 50
        x = jnp.full((num_examples, num_places), 3.0)
        y = ExampleDropout(rate).apply(
            {}, x, jnp.arange(num_examples), rngs={"dropout": jax.random.key(0)}
        )
        np.testing.assert_allclose(y[y != 0], 3.0 / (1 - rate), rtol=1e-6)
        one_draw = 3.0 * math.sqrt(rate / (1 - rate))  # the standard deviation
        assert abs(np.mean(y) - 3.0) < 5 * one_draw / math.sqrt(y.size)
        of_places = np.abs(np.mean(y, axis=0) - 3.0)
        assert np.max(of_places) < 5 * one_draw / math.sqrt(num_examples)

    def test_layers_have_independent_masks(self):
        """Two layers' masks of one example agree by chance, half of the time."""
        x, t = example(4, 8)
        params = random_params(UNet(**TINY), 8)
        key = jax.random.key(0)
        _, captured = apply_with_dropout(params, x, t, jnp.arange(4), key)
        blocks = [captured["intermediates"][f"middle_block{i}"] for i in range(2)]
        masks = [np.asarray(block["dropout"]["__call__"][0] == 0) for block in blocks]
        agreement = np.mean(masks[0] == masks[1])
        assert abs(agreement - 0.5) < 5 * 0.5 / math.sqrt(masks[0].size)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("remat", [name for name in REMATS if name != "none"])
def test_remat_changes_nothing_but_memory(remat, dtype):
    """Parameters, outputs and gradients are equal, dropout masks included, and the
    backward pass gets a fraction of the intermediate results. bfloat16 is rounded in
    other places: that changes less than bfloat16 does in place of float32."""
    x, t = example(4, 8)
    params = random_params(UNet(**SMALL), 8)

    def loss(net, params):
        rngs = {"dropout": jax.random.key(0)}
        return jnp.sum(jnp.sin(net.apply(params, x, t, dropout_index=t, rngs=rngs)))

    def difference(one, other):  # of the parameter that differs most
        pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
        return max(np.linalg.norm(a - b) / max(1, np.linalg.norm(b)) for a, b in pairs)

    found, saved = [], []
    for net in (
        UNet(**SMALL, dtype=dtype),
        UNet(**SMALL, dtype=dtype, remat=remat),
        UNet(**SMALL),
    ):
        chex.assert_trees_all_equal_shapes(init_shapes(net, 8), params["params"])
        of_net = functools.partial(loss, net)
        found.append(jax.jit(jax.value_and_grad(of_net))(params))
        residuals = jax.eval_shape(lambda p, f=of_net: jax.vjp(f, p)[1], params)
        saved.append(sum(r.size * r.dtype.itemsize for r in jax.tree.leaves(residuals)))
    (value, gradient), (again, its_gradient), (_, of_float32) = found
    rounding = 1e-5 if dtype == jnp.float32 else difference(gradient, of_float32)
    assert rounding < 0.1
    np.testing.assert_allclose(again, value, rtol=rounding)
    assert difference(its_gradient, gradient) <= rounding
    assert saved[1] < 0.5 * saved[0]


@pytest.mark.parametrize("config, size", [(CIFAR10, 32), (LARGE, 256)])
def test_products_that_remat_repeats(config, size):
    """Multiplications of a gradient: none more where products are kept, and for blocks
    less than a quarter, since a block's last product is not needed again."""
    counts = {}
    for remat in REMATS:
        net = UNet(**config, remat=remat)

        def loss(params, x, t, net=net):
            return jnp.sum(net.apply(params, x, t))

        params = {"params": init_shapes(net, size)}
        traced = jax.make_jaxpr(jax.grad(loss))(params, *arguments(1, size, size, 3))
        counts[remat] = count_macs(traced.jaxpr)
    assert counts["elementwise"] == counts["none"]
    assert 1.1 < counts["blocks"] / counts["none"] < 1.25


def test_unknown_remat_is_refused():
    """The error names the known ones."""
    net = UNet(**TINY, remat="some")
    with pytest.raises(ValueError, match="model.remat 'some'.*none, elementwise, bl"):
        jax.eval_shape(net.init, jax.random.key(0), *arguments(1, 8, 8, 3))


def test_conditioning_image_is_enlarged_and_stacked():
    """A small image conditions as its bilinear enlargement does; the output depends on
    the image, and on the level of its noise."""
    net = UNet(**SMALL, cond_image=True)
    x, t = example(2, 8)
    small = example(2, 4)[0]
    large = jax.image.resize(small, x.shape, "bilinear")

    def cond(image, level=0.0):
        return {"cond_image": image, "cond_noise": jnp.full(2, level)}

    params = net.init(jax.random.key(0), x, t, cond(small))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [jax.random.normal(k, v.shape) / 4 for k, v in zip(keys, leaves)]
    apply = jax.jit(lambda c: net.apply(tree.unflatten(leaves), x, t, c))
    expected = apply(cond(large))
    np.testing.assert_allclose(apply(cond(small)), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(apply(cond(large[::-1])) - expected).max() > 1e-2
    assert np.abs(apply(cond(large, 0.3)) - expected).max() > 1e-2

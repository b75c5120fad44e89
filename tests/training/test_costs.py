"""Laws of costs: closed forms of operations, memory and utilisation; XLA's count."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks import ours
from benchmarks.comparisons import load_config
from diffusion_jax.data import loader
from diffusion_jax.models import attention
from diffusion_jax.training import costs, parallel
from diffusion_jax.training.state import trace_initial
from diffusion_jax.training.step import make_train_step
from diffusion_jax.training_loop import compile_step


def memory_of(function, *arguments, **options):
    """The memory of a compiled function."""
    return costs.memory(jax.jit(function, **options).lower(*arguments).compile())


def counted_by_xla(function, *arguments):
    """XLA's count of the operations, with elementwise ones, before fusion."""
    return jax.jit(function).lower(*arguments).cost_analysis().get("flops", 0)


@pytest.mark.parametrize("m,k,n", [(64, 128, 32), (256, 256, 256)])
def test_a_matrix_product(m, k, n):
    """It has 2 m k n operations, and its memory is that of its three matrices (and of
    copies inside the product, at most as large)."""
    x, y = jnp.ones((m, k)), jnp.ones((k, n))
    assert costs.count_flops(jnp.matmul, x, y) == 2 * m * k * n
    three = 4 * (m * k + k * n + m * n)
    assert three <= memory_of(jnp.matmul, x, y) <= 2 * three


def test_batched_products():
    """A product for each example and head."""
    q, k = jnp.ones((3, 2, 5, 8)), jnp.ones((3, 2, 7, 8))
    product = functools.partial(jnp.einsum, "bhtc,bhsc->bhts")
    assert costs.count_flops(product, q, k) == 2 * (3 * 2) * (5 * 7) * 8


def test_a_convolution():
    """A valid convolution has 2 operations for each output and weight of its filter."""
    x, w = jnp.ones((4, 10, 10, 8)), jnp.ones((3, 3, 8, 16))
    axes = ("NHWC", "HWIO", "NHWC")

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", None, None, axes)

    assert costs.count_flops(conv, x, w) == 2 * (4 * 8 * 8 * 16) * (3 * 3 * 8)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    lhs_dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    rhs_dilation=st.tuples(st.integers(1, 1), st.integers(1, 2)),
    groups=st.integers(1, 2),
)
def test_convolutions_as_xla_counts_them(size, kernel, groups, padding, **options):
    """With any strides, paddings, dilations and groups, forward and in both gradients,
    convolutions have the operations that XLA counts."""
    shapes = (2, *size, 4), (*kernel, 4 // groups, 6)
    x, w = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=options.pop("strides"),
        padding=[padding, padding[::-1]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        **options,
    )
    assume(min(jax.eval_shape(conv, x, w).shape) > 0)
    assert costs.count_flops(conv, x, w) == counted_by_xla(conv, x, w)
    out = jax.eval_shape(conv, x, w)

    def gradient_of_image(w, out):
        return jax.linear_transpose(lambda x: conv(x, w), x)(out)

    def gradient_of_kernel(x, out):
        return jax.linear_transpose(lambda w: conv(x, w), w)(out)

    for gradient, other in ((gradient_of_image, w), (gradient_of_kernel, x)):
        found = costs.count_flops(gradient, other, out)
        assert found == counted_by_xla(gradient, other, out)


def test_loops_and_choices():
    """A scan counts every turn, a choice its largest branch."""
    x = jnp.ones((8, 8))

    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]

    def choice(i, x):
        return jax.lax.switch(i, [lambda x: x, lambda x: x @ x, loop], x)

    product = 2 * 8**3
    assert costs.count_flops(loop, x) == 5 * product
    assert costs.count_flops(choice, 0, x) == 5 * product


def test_fused_attention_counts_as_plain_attention(monkeypatch):
    """The kernel's own operations cannot be seen; those of the other branch count."""

    def kernel(query, key, value, **_):
        return query + 0 * key + 0 * value

    heads = [jnp.ones((2, 16, 8), jnp.bfloat16)] * 3

    def gradient(*heads):
        return jax.grad(lambda *x: attention.attention(*x).sum(), (0, 1, 2))(*heads)

    def count(function):
        return costs.count_flops(lambda *x: function(*x), *heads)  # traced anew

    functions = attention.attention, gradient
    plain = [*map(count, functions)]
    monkeypatch.setattr(attention, "compute_capability", lambda: 9)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    jaxpr = jax.make_jaxpr(lambda *x: attention.attention(*x))(*heads)
    assert "platform_index" in str(jaxpr)
    assert [*map(count, functions)] == plain
    assert plain[0] == 2 * 2 * 2 * 16 * 16 * 8  # two products, of two examples


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_a_train_step_as_xla_counts_it(accumulate, remat):
    """All but the elementwise operations, which XLA counts too: a few percent. Slices
    of a batch add up to the whole."""
    config = load_config("configs/digits.py", [f"model.remat={remat}"])
    config, method, source = ours.prepare(config, "float32")
    state = trace_initial(method).out_info
    batch = loader.to_batch(source, np.arange(8))
    expected = counted_by_xla(make_train_step(method, None), state, batch)
    step = make_train_step(method, None, accumulate)
    found = costs.count_flops(step, state, batch)
    assert 0.95 * expected <= found <= expected


def test_donated_memory_counts_once():
    """An argument whose memory becomes the output's is not counted twice."""
    x = jnp.ones(10**6)
    kept, donated = (
        memory_of(lambda x: x + 1, x, donate_argnums=given) for given in ((), (0,))
    )
    assert kept == pytest.approx(8e6, rel=0.01)
    assert donated == pytest.approx(4e6, rel=0.01)


def test_a_train_step_is_counted_on_each_device():
    """Eight devices with an eighth of the batch each have an eighth of the operations
    and of the batch's memory."""

    def step(state, batch):
        return state, {"loss": jnp.mean(batch["x"] @ state)}

    run = parallel.train_step_on_devices(step)
    state = parallel.replicate(jnp.ones((128, 128)))
    batch = parallel.shard({"x": np.ones((4096, 128), np.float32)})
    assert run.count_flops(state, batch) == 2 * 4096 * 128 * 128 / 8
    arrays = 4 * (128 * 128 + 4096 * 128 / 8)
    assert arrays <= costs.memory(run.compile(state, batch)) <= 4 * arrays


def test_utilisation():
    """The share of the peak rate, where both numbers are known; never of a CPU."""
    assert costs.utilisation(98.9e12, 0.2, "NVIDIA H200") == pytest.approx(0.5)
    assert costs.utilisation(None, 0.2, "NVIDIA H200") is None
    assert costs.utilisation(1e12, 0.2, "cpu") is None
    assert costs.utilisation(1e12, 0.2, parallel.device_kind()) is None


def test_what_a_backend_does_not_know():
    """A backend without an analysis gives None."""
    assert costs.memory(types.SimpleNamespace(memory_analysis=lambda: None)) is None


@pytest.mark.parametrize(
    "number,words",
    [
        (52_300_000, "52 MB"),
        (1_350_000_000, "1.4 GB"),
        (21.2e9, "21 GB"),
        (9.96e9, "10 GB"),
    ],
)
def test_in_words(number, words):
    """Two digits."""
    assert costs.in_words(int(number)) == words


@pytest.mark.parametrize("limit,warns", [({}, False), (16e9, True), (24e9, False)])
def test_too_little_memory_is_a_warning(monkeypatch, caplog, limit, warns):
    """The memory of a step is always said; that a device has less, with the keys that
    help, only where it is known and true."""
    caplog.set_level("INFO")
    found = {"bytes_limit": limit} if limit else {}
    monkeypatch.setattr(parallel, "device_memory", lambda: found)
    monkeypatch.setattr(costs, "memory", lambda compiled: int(21.2e9))
    step = types.SimpleNamespace(
        compile=lambda *_: None, count_flops=lambda *_: int(3e9)
    )
    state = types.SimpleNamespace(params={})
    assert compile_step(step, state, None) is None  # a CPU's peak is unknown
    monkeypatch.setattr(parallel, "device_kind", lambda: "NVIDIA H200")
    assert compile_step(step, state, None) == 3e9
    assert "The train step needs about 21 GB per device." in caplog.text
    assert ("A device has only 16 GB" in caplog.text) == warns
    assert ("data.batch_size" in caplog.text) == warns

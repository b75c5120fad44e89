"""Laws of costs: closed forms of operations, memory and utilisation."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import costs, parallel
from diffusion_jax.training_loop import compile_step


def costs_of(function, *arguments, **options):
    """The costs of a compiled function."""
    lowered = jax.jit(function, **options).lower(*arguments)
    return costs.Program(lowered, lowered.compile())


@pytest.mark.parametrize("m,k,n", [(64, 128, 32), (256, 256, 256)])
def test_a_matrix_product(m, k, n):
    """It has 2 m k n operations, and its memory is that of its three matrices (and of
    copies inside the product, at most as large)."""
    x, y = jnp.ones((m, k)), jnp.ones((k, n))
    found = costs_of(jnp.matmul, x, y)
    assert found.flops == 2 * m * k * n
    three = 4 * (m * k + k * n + m * n)
    assert three <= found.memory <= 2 * three


def test_a_convolution():
    """A valid convolution has 2 operations for each output and weight of its filter."""
    x, w = jnp.ones((4, 10, 10, 8)), jnp.ones((3, 3, 8, 16))
    axes = ("NHWC", "HWIO", "NHWC")

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", None, None, axes)

    assert costs_of(conv, x, w).flops == 2 * (4 * 8 * 8 * 16) * (3 * 3 * 8)


def test_donated_memory_counts_once():
    """An argument whose memory becomes the output's is not counted twice."""
    x = jnp.ones(10**6)
    kept, donated = (
        costs_of(lambda x: x + 1, x, donate_argnums=given).memory
        for given in ((), (0,))
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
    found = run.compile(state, batch)
    products = 2 * 4096 * 128 * 128 / 8
    assert products <= found.flops <= 1.1 * products
    arrays = 4 * (128 * 128 + 4096 * 128 / 8)
    assert arrays <= found.memory <= 4 * arrays


def test_utilisation():
    """The share of the peak rate, where both numbers are known; never of a CPU."""
    assert costs.utilisation(98.9e12, 0.2, "NVIDIA H200") == pytest.approx(0.5)
    assert costs.utilisation(None, 0.2, "NVIDIA H200") is None
    assert costs.utilisation(1e12, 0.2, "cpu") is None
    assert costs.utilisation(1e12, 0.2, parallel.device_kind()) is None


def test_what_a_backend_does_not_know():
    """A backend without an analysis gives None."""
    nothing = types.SimpleNamespace(
        cost_analysis=lambda: None, memory_analysis=lambda: None
    )
    unknown = costs.Program(nothing, nothing)
    assert unknown.flops is None and unknown.memory is None


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
    program = types.SimpleNamespace(flops=3e9, memory=int(21.2e9))
    step = types.SimpleNamespace(compile=lambda *_: program)
    state = types.SimpleNamespace(params={})
    assert compile_step(step, state, None, 1) is None  # a CPU's peak is unknown
    monkeypatch.setattr(parallel, "device_kind", lambda: "NVIDIA H200")
    assert compile_step(step, state, None, 4) == 12e9  # one slice is counted
    assert "The train step needs about 21 GB per device." in caplog.text
    assert ("A device has only 16 GB" in caplog.text) == warns
    assert ("data.batch_size" in caplog.text) == warns

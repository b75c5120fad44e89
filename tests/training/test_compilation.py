"""The compiler's options: other rounding, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoke import load

from diffusion_jax import methods
from diffusion_jax.data.base import image_field
from diffusion_jax.training import compilation
from diffusion_jax.training.state import initial, trace_initial
from diffusion_jax.training.step import make_train_step


@pytest.fixture(scope="module")
def method():
    return methods.make(load("digits"), {"image": image_field((8, 8, 1))})


def assert_equal(found, expected):
    """Equal to rounding, relative to the largest entry of each array."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        scale = np.max(np.abs(b), initial=1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


def test_a_quick_initialisation_draws_the_same(method):
    """The state is that of an ordinary compilation, and reproducible from the key."""
    key = jax.random.key(3)
    traced = trace_initial(method)
    found = compilation.run_once(traced, key)
    assert_equal(found, jax.jit(lambda key: initial(method, key))(key))
    again = compilation.run_once(traced, key)
    for a, b in zip(*map(jax.tree.leaves, (found.params, again.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), traced.out_info)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), found)


def test_a_step_compiled_for_speed_is_equal(method):
    """Loss and gradient, which Adam's first moment holds after one step, are those of
    XLA's default options."""
    state = compilation.run_once(trace_initial(method), jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    batch = {"image": images, "index": np.arange(8, dtype=np.int32)}
    lowered = jax.jit(make_train_step(method, None)).lower(state, batch)
    options = compilation.for_backend(compilation.REPEATED)
    assert options
    fast, plain = (
        lowered.compile(compiler_options=x)(state, batch) for x in (options, None)
    )
    np.testing.assert_allclose(fast[1]["loss"], plain[1]["loss"], rtol=1e-6)
    moments = (x[0].opt_state["net"]["adam"].mu for x in (fast, plain))
    assert_equal(*moments)


@pytest.mark.parametrize("table", [compilation.REPEATED, compilation.ONCE])
def test_accelerators_keep_xlas_defaults(monkeypatch, table):
    """The options are a CPU's; on other backends there are none."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.for_backend(table) is None
    assert compilation.about(100) == ""


@pytest.mark.parametrize("table", [compilation.REPEATED, compilation.ONCE])
def test_untried_versions_keep_xlas_defaults(monkeypatch, table):
    """A newer XLA may refuse the options, so that nothing would run."""
    assert compilation.for_backend(table)
    monkeypatch.setattr(jax, "__version_info__", (0, 13, 0))
    assert compilation.for_backend(table) is None


def test_the_estimate_is_in_proportion():
    """Twice as many arrays take twice as long; never less than a second."""
    assert "about 5 s" in compilation.about(100)
    assert "about 10 s" in compilation.about(200)
    assert "about 1 s" in compilation.about(0)

"""Samplers at their borders: precision, short and long chains, pure noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import VARIANTS, denoiser

from diffusion_jax.diffusion import langevin, samplers, sampling, schedules, timesteps

X_T = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
LONG = schedules.from_betas(schedules.linear(4000) / 4)


def bent(x_t, t, schedule):
    """Stands for a network: bent in x, and other at every noise level."""
    l_t = jnp.maximum(schedule(t), -20.0).astype(x_t.dtype)
    return 0.8 * jnp.tanh(1.5 * x_t + 0.1 * l_t)


def in_bfloat16(x_t, t, schedule):
    """The same network, computed in bfloat16; log-SNR stays as it is."""
    l_t = jnp.maximum(schedule(t), -20.0)
    inside = (1.5 * x_t + 0.1 * l_t).astype(jnp.bfloat16)
    return jnp.bfloat16(0.8) * jnp.tanh(inside)


@pytest.fixture(autouse=True)
def same_noise(monkeypatch):
    """Noise in float64 is that of float32, which JAX would draw from other bits."""

    def normal(keys, shape):
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
        return noise.astype(jnp.result_type(float))

    monkeypatch.setattr(samplers, "normal", normal)
    monkeypatch.setattr(langevin, "normal", normal)


def run(name, schedule, knots, network=bent):
    """x_0 of a walk from X_T, in the precision that is set."""
    denoise = denoiser(functools.partial(network, schedule=schedule))

    @jax.jit
    def x_0(x_T, keys):
        return sampling.sample(VARIANTS[name], denoise, schedule, knots, x_T, keys)[0]

    return x_0(jnp.asarray(X_T, jnp.result_type(float)), textbook.keys(3))


def in_both(name, schedule, knots):
    single = run(name, schedule, knots)
    with jax.enable_x64(True):
        double = run(name, schedule, knots)
    assert (single.dtype, double.dtype) == (jnp.float32, jnp.float64)
    return single, double


BRIEF = ("ancestral fixedlarge", "dpmpp_3m")  # one that draws, one that recalls


@pytest.mark.parametrize(
    "name",
    [n if n in BRIEF else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS],
)
def test_long_walk_in_float32(name):
    """All 4000 steps of T = 4000 in float32 are those of float64, to 1e-4.

    A step rounds what is about 1 at 6e-8 and its log-SNR at 5e-7 (of up to 10), and a
    denoiser that contracts forgets: 4000 steps at random add up to 63 of these.
    """
    single, double = in_both(name, LONG, timesteps.make("trailing", LONG, 4000))
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-4)


KNOTS = np.round(np.linspace(4000, 1, 7)).astype(np.int32)


@pytest.mark.parametrize("name", BRIEF)
def test_bfloat16_network(name):
    """A network that computes in bfloat16 walks in float32, near where float32 does.

    It rounds its input, up to 3, and its output at 2^-9: x_0 is off by up to 0.01, and
    3M weighs three of these with up to 4 in all.
    """
    single = run(name, LONG, KNOTS)
    half = run(name, LONG, KNOTS, in_bfloat16)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, single, rtol=0, atol=0.04)


@pytest.mark.parametrize("num_timesteps", [1, 2, 3])
def test_short_chains(num_timesteps):
    """Chains of 1, 2 and 3 times, walked in full by whole and by real times: finite."""
    schedule = schedules.from_betas(np.array([0.3, 0.9, 0.6])[:num_timesteps])
    for name, spacing in zip(BRIEF, ("trailing", "karras"), strict=True):
        x_0 = run(name, schedule, timesteps.make(spacing, schedule, num_timesteps))
        assert np.all(np.abs(x_0) <= 0.8)  # the range of the network


@pytest.mark.parametrize(
    "name", [name for name in VARIANTS if not VARIANTS[name].needs_signal]
)
def test_from_pure_noise(name):
    """From a T without any signal, every step and number is finite; jsd has such a T.

    One that draws nothing starts with the step of DDIM: nothing is known there that a
    higher order could use.
    """
    schedule, sampler = schedules.make("jsd", 10), VARIANTS[name]
    assert np.isneginf(schedule(10))
    denoise = denoiser(functools.partial(bent, schedule=schedule))
    state, x_t = sampler.init(jnp.asarray(X_T)), jnp.asarray(X_T)
    for t, s in zip([10, 7, 4], [7, 4, 1], strict=True):
        arguments = (textbook.keys(3), denoise, schedule, x_t, jnp.asarray(t), s)
        state, x_s, x_0 = sampler.step(state, *arguments)
        assert np.all(np.isfinite(x_s)) and np.all(np.isfinite(x_0))
        if t == 10 and name.startswith(("euler", "dpm")):
            expected = samplers.ddim().step((), *arguments)[1]
            np.testing.assert_allclose(x_s, expected, atol=1e-6)
        x_t = x_s

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
    """A stand-in for a network: nonlinear, and different at every noise level."""
    l_t = jnp.maximum(schedule(t), -20.0).astype(x_t.dtype)
    return 0.8 * jnp.tanh(1.5 * x_t + 0.1 * l_t)


def in_bfloat16(x_t, t, schedule):
    """The same network in bfloat16, with log-SNR in full precision."""
    l_t = jnp.maximum(schedule(t), -20.0)
    inside = (1.5 * x_t + 0.1 * l_t).astype(jnp.bfloat16)
    return jnp.bfloat16(0.8) * jnp.tanh(inside)


@pytest.fixture(autouse=True)
def same_noise(monkeypatch):
    """Makes float64 noise equal float32 noise, which JAX draws from other bits."""

    def normal(keys, shape):
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
        return noise.astype(jnp.result_type(float))

    monkeypatch.setattr(samplers, "normal", normal)
    monkeypatch.setattr(langevin, "normal", normal)


def run(names, schedule, steps, network=bent):
    """x_0 from X_T by each sampler, in the current precision."""
    denoise = denoiser(functools.partial(network, schedule=schedule))

    @jax.jit
    def x_0(x_T, keys):
        return {
            name: sampling.sample(VARIANTS[name], denoise, schedule, steps, x_T, keys)[
                0
            ]
            for name in names
        }

    return x_0(jnp.asarray(X_T, jnp.result_type(float)), textbook.keys(3))


BRIEF = ("ancestral fixedlarge", "dpmpp_3m")  # a stochastic one, one with a state


@pytest.mark.parametrize(
    "names",
    [
        BRIEF,
        pytest.param([n for n in VARIANTS if n not in BRIEF], marks=pytest.mark.slow),
    ],
)
def test_long_chain_in_float32(names):
    """All 4000 steps of T = 4000 in float32 equal those in float64, to 1e-4.

    A step rounds values of about 1 at 6e-8 and log-SNRs of up to 10 at 5e-7, and a
    contracting denoiser forgets errors: 4000 random ones add up to 63 of these.
    """
    steps = timesteps.make("trailing", LONG, 4000)
    single = run(names, LONG, steps)
    with jax.enable_x64(True):
        double = run(names, LONG, steps)
    for name in names:
        assert single[name].dtype == jnp.float32
        assert double[name].dtype == jnp.float64
        np.testing.assert_allclose(single[name], double[name], rtol=0, atol=1e-4)


def test_bfloat16_network():
    """With a bfloat16 network the loop runs in float32, close to a float32 network.

    It rounds its input, up to 3, and its output at 2^-9: x_0 is off by up to 0.01, and
    3M weighs three of these with up to 4 in total.
    """
    steps = np.round(np.linspace(4000, 1, 7)).astype(np.int32)
    single = run(BRIEF, LONG, steps)
    for name, half in run(BRIEF, LONG, steps, in_bfloat16).items():
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, single[name], rtol=0, atol=0.04)


def test_short_chains():
    """Chains of 1, 2 and 3 times, at all discrete and continuous times, are finite."""

    @jax.jit
    def run(x_T, keys):
        x_0 = []
        for name, spacing in zip(BRIEF, ("trailing", "karras"), strict=True):
            for n in (1, 2, 3):
                schedule = schedules.from_betas(np.array([0.3, 0.9, 0.6])[:n])
                with jax.ensure_compile_time_eval():
                    steps = timesteps.make(spacing, schedule, n)
                denoise = denoiser(functools.partial(bent, schedule=schedule))
                rest = denoise, schedule, steps, x_T, keys
                x_0.append(sampling.sample(VARIANTS[name], *rest)[0])
        return jnp.stack(x_0)

    x_0 = run(jnp.asarray(X_T), textbook.keys(3))
    assert np.all(np.abs(x_0) <= 0.8)  # the range of the network


def test_from_pure_noise():
    """From a T without signal, as in jsd, every step and value is finite.

    A deterministic sampler starts with DDIM's step: nothing is known there that a
    higher order could use.
    """
    schedule = schedules.make("jsd", 10)
    assert np.isneginf(schedule(10))
    denoise = denoiser(functools.partial(bent, schedule=schedule))

    @jax.jit
    def run(x_T, keys):
        def steps(sampler):
            def step(carry, ends):
                state, x_s, x_0 = sampler.step(
                    carry[0], keys, denoise, schedule, carry[1], *ends
                )
                return (state, x_s), (x_s, x_0)

            ends = jnp.array([10, 7, 4]), jnp.array([7, 4, 1])
            return jax.lax.scan(step, (sampler.init(x_T), x_T), ends)[1]

        return {
            name: steps(sampler)
            for name, sampler in VARIANTS.items()
            if not sampler.needs_signal
        }

    found = jax.device_get(run(jnp.asarray(X_T), textbook.keys(3)))
    for name, (x_s, x_0) in found.items():
        assert np.all(np.isfinite(x_s)) and np.all(np.isfinite(x_0)), name
        if name.startswith(("euler", "dpm")):
            first = found["ddim"][0][0]
            np.testing.assert_allclose(x_s[0], first, atol=1e-6, err_msg=name)

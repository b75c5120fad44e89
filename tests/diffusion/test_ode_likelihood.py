"""Likelihood by the probability-flow ODE: known densities and convergence order."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import denoiser

from diffusion_jax.diffusion import ode_likelihood, schedules, timesteps

BETAS = np.linspace(1e-4, 0.02, 1000)
LINEAR = schedules.from_betas(BETAS)
DATA = textbook.Gaussian(mean=0.3, std=0.5, betas=BETAS)
BARS = textbook.table(BETAS).alpha_bar
FIRST, LAST = BARS[0], BARS[-1]
X_1 = 0.3 + 0.6 * np.random.default_rng(0).normal(size=(5, 3))


def log_normal(x, mean, variance):
    """Sum over the last axis of log N(x; mean, variance)."""
    terms = np.square(x - mean) / variance + np.log(2 * np.pi * variance)
    return -0.5 * np.sum(terms, axis=-1)


@denoiser
def normal_denoise(x_t, t):
    """E[x_0 | x_t] of DATA, at continuous times."""
    return DATA.x_0(x_t, jax.nn.sigmoid(LINEAR(t)))


@denoiser
def mixture_denoise(x_t, t):
    """E[x_0 | x_t] of entries -0.6 or 0.6 with equal weight, plus N(0, 0.04)."""
    logsnr = LINEAR(t).astype(x_t.dtype)
    alpha, sigma2 = jnp.sqrt(jax.nn.sigmoid(logsnr)), jax.nn.sigmoid(-logsnr)
    variance = alpha**2 * 0.04 + sigma2
    centres = jnp.asarray([-0.6, 0.6], x_t.dtype)
    gap = x_t[..., None] - alpha * centres.reshape((1,) * x_t.ndim + (2,))
    share = jax.nn.softmax(-0.5 * jnp.square(gap) / variance, axis=-1)
    centres = centres.reshape((1,) * x_t.ndim + (2,))
    return jnp.sum(share * (centres + alpha * 0.04 / variance * gap), axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def exact(denoise, steps, x_1):
    """Log-likelihood in nats with the exact trace."""
    return ode_likelihood.log_likelihood(
        denoise, LINEAR, steps, x_1, ode_likelihood.basis_probes(x_1.shape[1:])
    )


@pytest.mark.usefixtures("x64")
def test_normal_data_to_second_order():
    """Normal data and the exact denoiser: errors fall as 1 / N^2.

    The ODE's solution is x_T = alpha_T m + (x_1 - alpha_1 m) std_T / std_1, which gives
    the density in closed form. It differs from the marginal at time 1, since N(0, I) is
    not exactly the marginal at T, of mean alpha_T m = 0.002 and variance 1 - 3e-5.
    """
    first, last = (0.25 * bar + 1 - bar for bar in (FIRST, LAST))
    centred = X_1 - np.sqrt(FIRST) * 0.3
    x_T = np.sqrt(LAST) * 0.3 + np.sqrt(last / first) * centred
    expected = log_normal(x_T, 0.0, 1.0) + 1.5 * np.log(last / first)
    numbers = np.array([120, 480])
    estimates = [
        exact(normal_denoise, timesteps.make("logsnr", LINEAR, n), X_1) for n in numbers
    ]
    errors = [np.abs(nats - expected).max() for nats in estimates]
    slope = np.log(errors[0] / errors[1]) / np.log(479 / 119)
    np.testing.assert_allclose(slope, 2, atol=0.1)
    assert errors[1] < 1e-3
    marginal = log_normal(X_1, np.sqrt(FIRST) * 0.3, first)
    prior = 0.0021 * np.abs(x_T).sum(1).max() + 1e-3
    np.testing.assert_allclose(estimates[1], marginal, atol=prior)


def test_mixture():
    """A mixture's density at time 1 is the mixture of the noised components."""
    x_1 = np.random.default_rng(1).uniform(-1, 1, (5, 2)).astype(np.float32)
    nats = exact(mixture_denoise, timesteps.make("logsnr", LINEAR, 200), x_1)
    variance = FIRST * 0.04 + 1 - FIRST
    parts = [
        log_normal(x_1[..., None], np.sqrt(FIRST) * centre, variance)
        for centre in (-0.6, 0.6)
    ]
    expected = np.sum(np.logaddexp(*parts) - np.log(2), axis=1)
    np.testing.assert_allclose(nats, expected, atol=0.01)


def test_total_probability():
    """In one dimension the density integrates to 1."""
    x_1 = np.linspace(-2, 2, 1601, dtype=np.float32)[:, None]
    nats = exact(mixture_denoise, timesteps.make("logsnr", LINEAR, 200), x_1)
    np.testing.assert_allclose(np.trapezoid(np.exp(nats), x_1[:, 0]), 1, atol=2e-3)


class ProbesTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_trace(self):
        """The mean of v^T A v is the trace of any matrix A: exact for basis probes, to
        4 standard errors for random ones: one probe's variance is twice the sum of
        squared off-diagonal entries of A's symmetric part."""
        matrix = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)

        @self.variant
        def means(keys):
            estimates = []
            for probes in (
                ode_likelihood.basis_probes((2, 3)),
                ode_likelihood.random_probes(keys, 500, (2, 3)),
            ):
                v = probes.reshape(*probes.shape[:2], 6)
                estimates.append(jnp.mean(jnp.sum(v @ matrix * v, axis=-1), axis=0))
            return estimates

        exact, estimate = means(textbook.keys(4))
        np.testing.assert_allclose(exact, [np.trace(matrix)], rtol=1e-5)
        symmetric = (matrix + matrix.T) / 2
        off = np.sum(np.square(symmetric)) - np.sum(np.square(np.diag(symmetric)))
        error = np.sqrt(2 * off / 500)
        np.testing.assert_allclose(estimate, np.trace(matrix), atol=4 * error)
        assert np.std(estimate) > 0


@denoiser
def mixing_denoise(x_t, t):
    """The exact denoiser of N(0, C) with correlated entries, where probes matter."""
    covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
    values, vectors = np.linalg.eigh(covariance)
    alpha2 = jax.nn.sigmoid(LINEAR(t))
    gain = jnp.sqrt(alpha2) * values / (alpha2 * values + 1 - alpha2)
    vectors = jnp.asarray(vectors, x_t.dtype)
    return (x_t @ vectors * gain.astype(x_t.dtype)[None]) @ vectors.T


def test_hutchinson_is_unbiased():
    """The mean over many probes is the likelihood with the exact trace, to 4 standard
    errors; each example has its own probes."""
    steps = timesteps.make("logsnr", LINEAR, 30)
    x_1 = np.tile(np.array([[0.5, -0.3]], np.float32), (256, 1))
    expected = exact(mixing_denoise, steps, x_1[:1])

    @jax.jit
    def estimate(keys):
        probes = ode_likelihood.random_probes(keys, 2, (2,))
        return ode_likelihood.log_likelihood(mixing_denoise, LINEAR, steps, x_1, probes)

    nats = np.asarray(estimate(textbook.keys(256)))
    error = nats.std() / np.sqrt(256)
    assert error > 0.001
    np.testing.assert_allclose(nats.mean(), expected[0], atol=4 * error)
    order = np.arange(255, -1, -1)
    again = estimate(textbook.keys(256)[order])
    np.testing.assert_allclose(again, nats[order], atol=1e-5)


def test_dequantized():
    """Each level becomes uniform over its bin, 2/255 wide; bins do not overlap."""
    levels = np.arange(256, dtype=np.float32) / 127.5 - 1
    x_0 = jnp.tile(levels, (64, 1))
    spread = np.asarray(jax.jit(ode_likelihood.dequantize)(textbook.keys(64), x_0))
    offsets = (spread - x_0) * 127.5
    assert np.abs(offsets).max() < 0.5 + 1e-4  # float32's rounding
    # uniform on -1/2..1/2: variance 1/12
    np.testing.assert_allclose(offsets.mean(), 0, atol=4 * np.sqrt(1 / 12) / 128)
    np.testing.assert_allclose(offsets.var(), 1 / 12, rtol=4 * np.sqrt(0.8) / 128)

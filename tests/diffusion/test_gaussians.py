"""Normal distributions against numerical integrals; probabilities sum to one."""

import itertools
import math

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import gaussians

LEVELS = np.arange(256) / 127.5 - 1  # 8-bit values in [-1, 1]
MEANS = (-50.0, -1.5, -1.0, -0.73, 0.0, 0.0031, 0.5, 0.999, 1.2, 50.0)
STDS = (1e-4, 0.003, 0.0074, 0.05, 0.14, 1.0, 30.0, 1e4)


def reference(mean, std):
    """The bins of equation 13 in float64, as sigmoid differences in the lower tail."""

    def cdf(z):
        z = np.clip(z, -1e3, 1e3)
        u = 2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
        return np.exp(-np.logaddexp(0, -u))

    lower = np.append(-np.inf, (LEVELS[1:] - 1 / 255 - mean) / std)
    upper = np.append((LEVELS[:-1] + 1 / 255 - mean) / std, np.inf)
    flip = lower + upper > 0  # 1 - F cancels if F is near 1: use F(-z)
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    return np.log(np.maximum(cdf(upper) - cdf(lower), 1e-12))


jitted = jax.jit(gaussians.discretized_log_likelihood)  # for speed


def log_likelihood(mean, std, dtype=np.float32):
    """Our log-likelihood of all levels."""
    return np.asarray(jitted(dtype(LEVELS), dtype(mean), dtype(2 * np.log(std))))


unit = st.floats(-1, 1)


@pytest.mark.usefixtures("x64")
@hypothesis.given(unit, st.floats(-3, 3), unit, st.floats(-3, 3))
@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_kl_is_its_integral(mean_1, log_variance_1, mean_2, log_variance_2):
    """KL(p, q) is the integral of p log(p / q), by the trapezoid rule; it is >= 0."""
    std = math.exp(0.5 * log_variance_1)
    x = mean_1 + std * np.linspace(-12, 12, 4001)

    def log_density(mean, log_variance):
        square = (x - mean) ** 2 * math.exp(-log_variance)
        return -0.5 * (square + log_variance + math.log(2 * math.pi))

    log_p = log_density(mean_1, log_variance_1)
    log_q = log_density(mean_2, log_variance_2)
    expected = np.trapezoid(np.exp(log_p) * (log_p - log_q), x)
    actual = gaussians.normal_kl(mean_1, log_variance_1, mean_2, log_variance_2)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)
    assert actual >= -1e-15


@hypothesis.given(
    mean=st.floats(-1e3, 1e3, width=32), log_variance=st.floats(-40, 40, width=32)
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_kl_of_a_normal_with_itself(mean, log_variance):
    """KL(p, p) = 0 exactly."""
    assert gaussians.normal_kl(mean, log_variance, mean, log_variance) == 0


@hypothesis.given(
    log_variance=st.floats(-20, 20, width=32), shift=st.floats(-1, 1, width=32)
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_kl_is_not_negative_in_single_precision(log_variance, shift):
    """KL >= 0 in float32 too, to the rounding of the log-variances' difference."""
    log_variance, other = np.float32(log_variance), np.float32(log_variance + shift)
    kl = float(gaussians.normal_kl(0.0, jnp.asarray(log_variance), 0.0, other))
    assert kl >= -(2**-23) * abs(other - log_variance)


def test_normal_logit():
    """sigmoid(normal_logit) is the normal CDF to 3e-4 and Page's tanh; it is odd."""
    x = np.linspace(-6, 6, 241)
    normal_logit = jax.jit(gaussians.normal_logit)
    logit = np.asarray(normal_logit(x), np.float64)
    np.testing.assert_array_equal(normal_logit(-x), -logit)
    approximate = 1 / (1 + np.exp(-logit))
    exact = [0.5 * math.erfc(-z / math.sqrt(2)) for z in x]
    np.testing.assert_allclose(approximate, exact, atol=3e-4)
    tanh = 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(approximate, tanh, atol=1e-6)


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("mean", MEANS)
def test_levels_sum_to_one(mean, std):
    """The 256 levels' probabilities sum to 1 for any mean and width.

    In float32, and up to the minimum probability, 256 x 1e-12.
    """
    probability = np.exp(log_likelihood(mean, std).astype(np.float64))
    # The error is the rounding of (x - mean) / std where F is steep.
    tolerance = 1e-5 + 2**-24 * max(abs(mean), 1) / std * (abs(mean) <= 1.1)
    np.testing.assert_allclose(probability.sum(), 1, atol=tolerance)


@hypothesis.given(mean=st.floats(-1.5, 1.5), log_std=st.floats(-6, 4))
@hypothesis.settings(max_examples=40, deadline=None)
def test_levels_sum_to_one_for_any_normal(mean, log_std):
    """The same law over random means and widths."""
    values = log_likelihood(mean, math.exp(log_std)).astype(np.float64)
    np.testing.assert_allclose(np.exp(values).sum(), 1, atol=3e-5)
    assert values.max() <= 0 and values.min() >= math.log(1e-12) * (1 + 1e-6)


@pytest.mark.parametrize("std", STDS[1:])
@pytest.mark.parametrize("mean", MEANS[1:-1])
def test_likelihood_in_single_precision(mean, std):
    """float32 equals a float64 reference to 2e-5 nats, from the centre to the tails.

    The mean is rounded first, so that only the arithmetic is compared.
    """
    mean = float(np.float32(mean))
    actual = log_likelihood(mean, std)
    # d log F / dz is |z| and z has lost 2^-24 (|x| + |mean|) / std: only at 0.003.
    tolerance = 2e-5 + 8 * 2**-24 * 2.5 / std
    np.testing.assert_allclose(actual, reference(mean, std), atol=tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("mean", MEANS)
def test_likelihood_in_double_precision(mean, std):
    """In float64 the log-probabilities are those of equation 13."""
    actual = log_likelihood(mean, std, np.float64)
    np.testing.assert_allclose(actual, reference(mean, std), rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_published_bits():
    """The decoder's bits at t = 1 for a perfect mean, in the range and at its ends."""
    x = np.array([-1.0, LEVELS[77], LEVELS[128], 1.0])
    log_variance = jnp.asarray(2 * np.log(0.007384570171))
    bits = -gaussians.discretized_log_likelihood(x, x, log_variance) / np.log(2)
    np.testing.assert_allclose(
        bits, [0.509907879, 1.305665145, 1.305665145, 0.509907879], rtol=2e-9
    )


class SymmetryTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_mirror(self):
        """Mirrored data under a mirrored normal has the same likelihood."""
        likelihood = self.variant(gaussians.discretized_log_likelihood)
        x = jnp.float32(LEVELS)
        for mean, std in itertools.product([-1.5, -0.3, 0.0, 0.7], [0.003, 0.1, 3.0]):
            log_variance = jnp.float32(2 * np.log(std))
            one = likelihood(x, jnp.float32(mean), log_variance)
            other = likelihood(-x, jnp.float32(-mean), log_variance)
            chex.assert_trees_all_close(one, other, rtol=1e-6, atol=1e-6)


def test_gradients_are_finite():
    """Gradients have no NaN, even at the minimum probability or for narrow normals."""
    means = jnp.array([-1e4, -3.0, -1.0, 0.0, 0.2, 1.0, 1e4])
    log_variances = jnp.array([-40.0, -20.0, -9.8, -2.0, 0.0, 20.0, 60.0])
    x, mean, log_variance = jnp.meshgrid(jnp.float32(LEVELS), means, log_variances)

    def total(mean, log_variance):
        return jitted(x, mean, log_variance).sum()

    chex.assert_tree_all_finite(jax.jit(jax.grad(total, (0, 1)))(mean, log_variance))


def test_gradient_points_to_the_data():
    """The gradient with respect to the mean points to x, also far in the tails."""
    x = jnp.float32(LEVELS)
    mean = jnp.full_like(x, 0.1)
    slope = jax.jit(jax.vmap(jax.grad(jitted, 1), (0, 0, None)))
    # At std 0.2 all levels are within 5.5 std of the mean: above the minimum.
    away = np.asarray(slope(x, mean, jnp.float32(2 * np.log(0.2)))) * (LEVELS - 0.1)
    assert np.all(away[np.abs(LEVELS - 0.1) > 1 / 255] > 0)


class SumTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_reductions(self):
        """One value per example: the sum, or the mean, over all other axes."""
        rng = np.random.default_rng(0)
        shapes = (3,), (3, 5), (3, 2, 2, 2)
        values = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

        @self.variant
        def reduced(values):
            reductions = gaussians.sum_over_data, gaussians.mean_over_data
            return [[reduce(x) for reduce in reductions] for x in values]

        for x, (total, mean) in zip(values, reduced(values), strict=True):
            flat = x.reshape(3, -1)
            np.testing.assert_allclose(total, flat.sum(1), rtol=1e-5)
            np.testing.assert_allclose(mean, flat.mean(1), rtol=1e-5)

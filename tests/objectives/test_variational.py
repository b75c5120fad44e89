"""The ELBO against integrals, and for a model whose likelihood is known."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objectives import variational as elbo

FAR = 1e4  # a logit where sigmoid is saturated
importance_bound = jax.jit(elbo.importance_bound)
log_importance_weight = jax.jit(elbo.log_importance_weight)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_bernoulli_by_hand():
    """x log p + (1 - x) log(1 - p), summed over pixels, also for x between 0 and 1."""
    p, x = np.array([[0.5, 0.9, 0.2]] * 3), np.array([[1, 0, 1], [0, 1, 0], [0.3] * 3])
    expected = np.sum(x * np.log(p) + (1 - x) * np.log1p(-p), axis=1)
    found = elbo.bernoulli_log_likelihood(x, np.log(p / (1 - p)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_bernoulli_is_a_distribution():
    """The probabilities of all binary 2x2 images sum to 1."""
    images = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    logits = np.broadcast_to([-3.0, 0.1, 2.0, 8.0], images.shape)
    shape = (-1, 2, 2, 1)
    nats = elbo.bernoulli_log_likelihood(images.reshape(shape), logits.reshape(shape))
    assert np.exp(nats).sum() == pytest.approx(1, abs=1e-5)


def test_bernoulli_far_out():
    """At logits of 10,000 it is x l - max(l, 0), and its gradient x - sigmoid(l)."""
    x = jnp.array([[1.0], [0.0], [1.0], [0.0], [0.25], [0.25]])
    logits = jnp.array([[FAR], [FAR], [-FAR], [-FAR], [FAR], [-FAR]])
    nats = elbo.bernoulli_log_likelihood(x, logits)
    np.testing.assert_array_equal(nats, [0, -FAR, -FAR, 0, -0.75 * FAR, -0.25 * FAR])
    slope = jax.grad(lambda o: jnp.sum(elbo.bernoulli_log_likelihood(x, o)))(logits)
    np.testing.assert_array_equal(slope[:, 0], [0, -1, 1, 0, -0.75, 0.25])


def test_bernoulli_soft_target():
    """The likelihood of x between 0 and 1 is highest at the logit with sigmoid x."""
    x = jnp.array([[0.01], [0.3], [0.5], [0.99]])
    best = jnp.log(x / (1 - x))
    slope = jax.grad(lambda o: jnp.sum(elbo.bernoulli_log_likelihood(x, o)))(best)
    np.testing.assert_allclose(slope, jnp.zeros_like(x), atol=1e-6)
    at_best = elbo.bernoulli_log_likelihood(x, best)
    for shift in (-0.5, 0.5):
        assert np.all(elbo.bernoulli_log_likelihood(x, best + shift) < at_best)


@pytest.mark.parametrize("mean, scale", [(0.0, 1.0), (-0.7, 0.05), (2.0, 3.0)])
def test_normal_is_a_density(mean, scale):
    """It has integral 1 and the right mean and variance, by the trapezoid rule."""
    x = mean + scale * np.linspace(-10, 10, 2001)
    centre = np.full((len(x), 1), mean)
    density = np.exp(elbo.normal_log_likelihood(x[:, None], centre, scale))
    moments = [np.trapezoid(density * (x - mean) ** n, x) for n in range(3)]
    np.testing.assert_allclose(moments, [1, 0, scale**2], rtol=1e-4, atol=1e-5)


def test_normal_sums_over_pixels():
    """The density of an image is the product over its pixels."""
    x, mean = draw(3, 2, 2, 1), draw(3, 2, 2, 1, seed=1)
    terms = -((x - mean) ** 2) / (2 * 0.3**2) - np.log(0.3 * np.sqrt(2 * np.pi))
    found = elbo.normal_log_likelihood(x, mean, 0.3)
    np.testing.assert_allclose(found, terms.sum((1, 2, 3)), rtol=1e-5)


@hypothesis.given(st.floats(-3, 3), st.floats(-4, 3))
@hypothesis.settings(max_examples=25, deadline=None)
def test_kl_is_its_integral(mean, logvar):
    """KL is the integral of q log(q / p), by the trapezoid rule; it is >= 0."""
    x = mean + math.exp(0.5 * logvar) * np.linspace(-12, 12, 4001)
    log_q = -0.5 * ((x - mean) ** 2 * math.exp(-logvar) + logvar)
    density = np.exp(log_q) / math.sqrt(2 * math.pi)
    expected = np.trapezoid(density * (log_q + 0.5 * x**2), x)
    found = elbo.kl_to_standard_normal(jnp.float32(mean), jnp.float32(logvar))
    assert found == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert found >= -1e-7


def test_kl_near_the_prior():
    """At q = p it is 0, and nearby it is m^2 / 2 + v^2 / 4, also in float32."""
    v = np.array([1e-3, -1e-3, 3e-3], np.float32)
    found = elbo.kl_to_standard_normal(np.zeros_like(v), v)
    np.testing.assert_allclose(found, v**2 / 4, rtol=2e-3)
    assert elbo.kl_to_standard_normal(jnp.zeros(1), jnp.zeros(1)) == 0


def test_reparameterize():
    """z is mean + standard deviation eps; gradients reach both."""
    mean, logvar, eps = jnp.array([2.0]), jnp.array([math.log(9.0)]), jnp.array([-1.5])
    assert elbo.reparameterize(mean, logvar, eps)[0] == pytest.approx(2 - 3 * 1.5)
    slopes = jax.grad(lambda *a: elbo.reparameterize(*a)[0], (0, 1))(mean, logvar, eps)
    np.testing.assert_allclose(np.stack(slopes)[:, 0], [1, -1.5 * 3 / 2], rtol=1e-6)


class LinearGaussian:
    """z ~ N(0, I) in the plane, x = W z + b + s eps in space; W has orthogonal columns,
    so that z given x has independent coordinates."""

    W = np.array([[1.0, 0.5], [1.0, -0.5], [0.5, 0.0]])
    b, s = np.array([0.3, -0.2, 1.0]), 0.7
    x = np.array([1.1, -0.4, 0.8])

    def log_evidence(self):
        """log N(x; b, W W^T + s^2 I)."""
        covariance = self.W @ self.W.T + self.s**2 * np.eye(3)
        error = self.x - self.b
        quadratic = error @ np.linalg.solve(covariance, error)
        return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])

    def posterior(self):
        """Mean and log-variance of z given x, [2] each."""
        precision = np.diag(self.W.T @ self.W) / self.s**2 + 1
        mean = self.W.T @ (self.x - self.b) / self.s**2 / precision
        return mean, -np.log(precision)

    def log_weights(self, z, mean, logvar):
        """log p(x|z) + log p(z) - log q(z|x) for z [n, 2]: [n]."""
        x = np.broadcast_to(self.x, (len(z), 3))
        nats = elbo.normal_log_likelihood(x, z @ self.W.T + self.b, self.s)
        mean, logvar = (np.broadcast_to(v, z.shape) for v in (mean, logvar))
        return log_importance_weight(nats, z, mean, logvar)


MODEL = LinearGaussian()
WRONG = (
    np.array([0.2, -0.3]),
    np.array([-0.4, 0.1]),
)  # not the true posterior


def quadrature(mean, logvar):
    """Gauss-Hermite nodes z [n, 2] and weights [n] for q."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    eps = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    both = np.outer(weights, weights).reshape(-1) / (2 * np.pi)
    return mean + np.exp(0.5 * logvar) * eps, both


def test_exact_posterior_has_constant_weights(x64):
    """Under the true posterior every weight is log p(x), and so is the bound."""
    mean, logvar = MODEL.posterior()
    found = MODEL.log_weights(draw(50, 2), mean, logvar)
    np.testing.assert_allclose(found, MODEL.log_evidence(), rtol=1e-10)
    bounded = importance_bound(found[:, None])
    np.testing.assert_allclose(bounded, MODEL.log_evidence(), rtol=1e-10)


def test_weights_average_to_the_evidence(x64):
    """Under any q the mean of e^w is p(x), by quadrature."""
    z, share = quadrature(*WRONG)
    weights = np.exp(MODEL.log_weights(z, *WRONG))
    assert np.sum(share * weights) == pytest.approx(np.exp(MODEL.log_evidence()))


def test_mean_weight_is_the_elbo(x64):
    """The mean of w is that of log p(x|z) minus KL(q || prior), and log p(x) minus
    KL(q || posterior)."""
    mean, logvar = WRONG
    z, share = quadrature(mean, logvar)
    nats = elbo.normal_log_likelihood(
        np.broadcast_to(MODEL.x, (len(z), 3)), z @ MODEL.W.T + MODEL.b, MODEL.s
    )
    kl = float(np.sum(elbo.kl_to_standard_normal(mean, logvar)))
    mean_weight = float(np.sum(share * MODEL.log_weights(z, mean, logvar)))
    assert mean_weight == pytest.approx(float(np.sum(share * nats)) - kl, rel=1e-8)
    true_mean, true_logvar = MODEL.posterior()
    ratio = np.exp(logvar - true_logvar)
    moved = (mean - true_mean) ** 2 * np.exp(-true_logvar)
    gap = 0.5 * np.sum(ratio + moved - 1 - np.log(ratio))
    assert mean_weight == pytest.approx(MODEL.log_evidence() - gap, rel=1e-8)


def test_bound_rises_to_the_evidence(x64):
    """With more samples the mean of the bound approaches log p(x) from below."""
    mean, logvar = WRONG
    z = mean + np.exp(0.5 * logvar) * draw(256 * 400, 2, seed=3)
    weights = np.asarray(MODEL.log_weights(z, mean, logvar))
    means = [np.mean(importance_bound(weights.reshape(k, -1))) for k in (1, 8, 256)]
    gaps = MODEL.log_evidence() - np.array(means)
    assert np.all(np.diff(gaps) < 0)
    assert abs(gaps[-1]) < 0.02 < gaps[0]


def test_bound_grows_with_every_sample():
    """Burda et al. 2016, theorem 1: the mean over all subsets of k samples grows with
    k."""
    weights = 3 * draw(6, 4, seed=1)
    means = []
    for k in range(1, 7):
        subsets = np.array(list(itertools.combinations(range(6), k)))
        means.append(np.mean(importance_bound(np.moveaxis(weights[subsets], 1, 0)), 0))
    assert np.all(np.diff(means, axis=0) > 0)


def test_importance_bound_by_hand():
    """log of the mean of e^w; of one sample it is w; no overflow far from 0."""
    weights = np.log([[1.0, 6.0], [3.0, 2.0]])
    np.testing.assert_allclose(importance_bound(weights), np.log([2, 4]), rtol=1e-6)
    np.testing.assert_allclose(importance_bound(weights[:1]), weights[0], rtol=1e-6)
    far = importance_bound(np.array([[-FAR], [-FAR]], np.float32))
    np.testing.assert_array_equal(far, [-FAR])


@pytest.mark.parametrize("name", elbo.LIKELIHOODS)
def test_mean_of_the_most_likely_output(name):
    """The output that maximizes the likelihood of x has the mean x."""
    likelihood = elbo.LIKELIHOODS[name]
    x = jnp.array([[-0.9], [-0.1], [0.0], [0.8]])
    target = likelihood.target(x)
    best = jnp.log(target / (1 - target)) if name == "bernoulli" else target
    slope = jax.grad(lambda o: jnp.sum(likelihood.log_likelihood(target, o, 0.5)))(best)
    np.testing.assert_allclose(slope, jnp.zeros_like(x), atol=1e-6)
    np.testing.assert_allclose(likelihood.mean(best), x, atol=1e-6)


def test_bernoulli_ranges():
    """Data in [-1, 1] map to targets in [0, 1], and any logit to a mean in [-1, 1]."""
    bernoulli = elbo.LIKELIHOODS["bernoulli"]
    np.testing.assert_array_equal(bernoulli.target(np.array([-1.0, 0, 1])), [0, 0.5, 1])
    found = bernoulli.mean(jnp.array([-FAR, 0.0, FAR]))
    np.testing.assert_array_equal(found, [-1, 0, 1])

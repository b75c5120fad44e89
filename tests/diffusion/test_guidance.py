"""From a network's output to x_0, whatever it predicts."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from absl.testing import parameterized

from diffusion_jax.diffusion import guidance, process, schedules

BETAS = np.linspace(1e-4, 0.02, 1000)
DATA = textbook.Gaussian(mean=0.3, std=0.5, betas=BETAS)
TIMES = np.array([1, 2, 10, 100, 500, 1000])


class FromNetworkTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(prediction=[*process.PREDICTIONS])
    def test_exact_networks_agree(self, prediction):
        """The perfect network of each prediction denoises to the same E[x_0 | x_t].

        To float32's 2^-24 over the weight of the prediction: alpha for eps and scores,
        that of x_0 in the posterior mean for mu.
        """
        schedule = schedules.make("linear", 1000)
        network = DATA.network(prediction)
        denoise = self.variant(guidance.from_network(network, prediction, schedule))
        rng = np.random.default_rng(0)
        x_t = jnp.asarray(rng.normal(size=(len(TIMES), 3)), jnp.float32)
        alpha_bar = textbook.table(BETAS).alpha_bar[TIMES - 1]
        expected = DATA.x_0(x_t, jnp.float32(alpha_bar)[:, None])
        weight = {
            "eps": np.sqrt(alpha_bar),
            "score": np.sqrt(alpha_bar),
            "mu": textbook.table(BETAS).of_x_0[TIMES - 1],
        }.get(prediction, np.ones(len(TIMES)))
        error = np.abs(denoise(x_t, jnp.asarray(TIMES)) - expected).max(1)
        assert np.all(error * weight < 40 * 2**-24)

    @chex.variants(with_jit=True, without_jit=True)
    def test_time_of_the_network(self):
        """The network hears the authors' t - 1, i32, one an example: 0..T-1."""
        schedule = schedules.make("linear", 4)

        def network(x_t, t):
            chex.assert_shape(t, (2,))
            assert t.dtype == jnp.int32
            return jnp.broadcast_to(t[:, None].astype(jnp.float32), x_t.shape)

        denoise = self.variant(guidance.from_network(network, "x0", schedule))
        x_t = jnp.zeros((2, 3))
        for t in (1, 4):  # a scalar, as samplers say it
            np.testing.assert_array_equal(denoise(x_t, jnp.asarray(t)), t - 1)
        each = denoise(x_t, jnp.array([1, 4]))
        np.testing.assert_array_equal(each, [[0, 0, 0], [3, 3, 3]])

    @chex.variants(with_jit=True, without_jit=True)
    def test_clipped(self):
        """The predicted x_0 is held within [-1, 1], and left alone inside."""
        denoise = self.variant(guidance.static_thresholding(lambda x_t, t: x_t))
        x_t = jnp.array([[-3.0, -1.0, -0.4, 0.0, 0.9, 1.0, 2.0]])
        expected = [[-1.0, -1.0, -0.4, 0.0, 0.9, 1.0, 1.0]]
        actual = denoise(x_t, jnp.asarray(1))
        np.testing.assert_array_equal(actual, np.float32(expected))


def test_zero_noise_predicted():
    """eps = 0 means that x_t is signal alone: x_0 = x_t / alpha_t (equation 15)."""
    schedule = schedules.make("linear", 1000)
    denoise = guidance.from_network(lambda x_t, t: 0 * x_t, "eps", schedule)
    x_t = jnp.ones((1, 2))
    alpha = np.sqrt(textbook.table(BETAS).alpha_bar[-1])
    np.testing.assert_allclose(denoise(x_t, jnp.asarray(1000)), 1 / alpha, rtol=2e-6)


def test_unknown_prediction():
    """A name that is not in the table is refused with those that are."""
    schedule = schedules.make("linear", 10)
    with pytest.raises(ValueError, match="'noise'.*eps.*x0.*v.*mu"):
        guidance.from_network(lambda x_t, t: x_t, "noise", schedule)


@pytest.mark.parametrize("prediction", ["x0", "v", "mu"])
def test_pure_noise(prediction):
    """From jsd's T, where no signal is left, all but eps denoise to a finite x_0.

    A perfect network says the data's mean there.
    """
    data = textbook.Gaussian(0.3, 0.5, 1 / np.arange(10.0, 0, -1))
    schedule = schedules.make("jsd", 10)
    denoise = guidance.from_network(data.network(prediction), prediction, schedule)
    x_t = jnp.linspace(-2, 2, 8).reshape(2, 4)
    actual = jax.jit(denoise)(x_t, jnp.asarray(10))
    np.testing.assert_allclose(actual, 0.3, rtol=1e-5)


# Wrappers.

SCHEDULE = schedules.make("linear", 1000)
X_T = jnp.asarray(np.random.default_rng(1).normal(size=(2, 200)), jnp.float32)
T_500 = jnp.asarray(500)


def with_class(x_t, t):
    """Some denoiser."""
    return 0.3 * x_t + 0.5


def without_class(x_t, t):
    """Another one."""
    return jnp.sin(x_t)


def log_probability(x_t, t):
    """Of something."""
    return -jnp.sum(x_t**2, axis=-1)


WRAPPERS = {
    **guidance.THRESHOLDING,
    "classifier_free": lambda denoise: guidance.classifier_free(
        denoise, without_class, 2.0, SCHEDULE
    ),
    "classifier_guided": lambda denoise: guidance.classifier_guided(
        denoise, log_probability, 2.0, SCHEDULE
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_values_of_the_variance_pass(name):
    """Every wrapper does to x_0 of (x_0, values) what it does to x_0 alone, and leaves
    the values as they are."""

    def both(x_t, t):
        return with_class(x_t, t), 7 * x_t

    alone = WRAPPERS[name](with_class)(X_T, T_500)
    x_0, values = WRAPPERS[name](both)(X_T, T_500)
    np.testing.assert_array_equal(x_0, alone)
    np.testing.assert_array_equal(values, 7 * X_T)
    np.testing.assert_array_equal(
        guidance.without_variance(WRAPPERS[name](both))(X_T, T_500), alone
    )


def test_values_of_the_network():
    """Where the variance is learned, the second half of the channels is its values,
    and the first half is what it would be without them."""

    def network(x_t, t):
        return jnp.concatenate([jnp.cos(x_t), 7 * x_t], axis=-1)

    denoise = guidance.from_network(network, "v", SCHEDULE, learned_variance=True)
    x_0, values = denoise(X_T, T_500)
    plain = guidance.from_network(lambda x_t, t: jnp.cos(x_t), "v", SCHEDULE)
    np.testing.assert_array_equal(x_0, plain(X_T, T_500))
    np.testing.assert_array_equal(values, 7 * X_T)


def test_dynamically_clipped():
    """An example is clipped at s, the 99.5 % quantile of |x_0|, and divided by it,
    where s > 1; others are left alone."""
    x_0 = np.stack([3 * X_T[0], 0.2 * X_T[1]])
    denoise = guidance.dynamic_thresholding(lambda x_t, t: x_t)
    s = np.quantile(np.abs(x_0[0]), 0.995)
    assert s > 1 > np.abs(x_0[1]).max()
    expected = np.stack([np.clip(x_0[0], -s, s) / s, x_0[1]])
    np.testing.assert_allclose(denoise(x_0, T_500), expected, rtol=1e-5)


@hypothesis.given(scale=st.floats(-1, 8))
@hypothesis.settings(max_examples=20, deadline=None)
def test_classifier_free_is_linear(scale):
    """(1 - w) x_0(none) + w x_0(class): 1 is the class alone, 0 none of it."""
    denoise = guidance.classifier_free(with_class, without_class, scale, SCHEDULE)
    x_0 = denoise(X_T, T_500)
    expected = (1 - scale) * np.sin(X_T) + scale * (0.3 * X_T + 0.5)
    np.testing.assert_allclose(x_0, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prediction", process.PREDICTIONS)
def test_classifier_free_mixes_networks(prediction):
    """The mixture of x_0 is that of what the networks say, whatever they predict."""

    def denoiser(network):
        return guidance.from_network(network, prediction, SCHEDULE)

    def mixed(x_t, t):
        return -1.5 * jnp.sin(x_t) + 2.5 * with_class(x_t, t)

    guided = guidance.classifier_free(
        denoiser(with_class), denoiser(without_class), 2.5, SCHEDULE
    )
    x_t = jnp.asarray(X_T, jnp.float64)
    np.testing.assert_allclose(
        guided(x_t, T_500), denoiser(mixed)(x_t, T_500), rtol=1e-9, atol=1e-9
    )


def test_guidance_within_an_interval():
    """At times whose log-SNR lies in the interval there is guidance, ends included,
    and at others the class alone, example by example."""
    t = np.array([1, 200, 500, 800, 1000])
    interval = tuple(float(SCHEDULE(t)) for t in (800, 200))
    denoise = guidance.classifier_free(
        with_class, without_class, 2.0, SCHEDULE, interval
    )
    x_t = jnp.ones((5, 3))
    expected = np.where([0, 1, 1, 1, 0], 2 * 0.8 - np.sin(1), 0.8)[:, None]
    found = denoise(x_t, jnp.asarray(t))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (5, 3)), rtol=1e-5)
    for i in range(5):  # and for a scalar time, as samplers say it
        np.testing.assert_allclose(denoise(x_t, t[i]), expected[i, 0], rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_classifier_guided_is_bayes_rule(noise):
    """Data N(0.3, s^2), observed as y = x_0 + noise: guided by p(y | x_t) with scale 1,
    the exact denoiser of the data is that of p(x_0 | y), which is normal.

    p(y | x_t) is N(E[x_0 | x_t], Var(x_0 | x_t) + noise^2).
    """
    y, s2, n2 = 1.1, DATA.std**2, noise**2

    def log_p(x_t, t):
        doubt = s2 / (1 + s2 * jnp.exp(SCHEDULE(t)))[:, None]  # Var(x_0 | x_t)
        std = jnp.sqrt(doubt + n2)
        logpdf = jax.scipy.stats.norm.logpdf(y, DATA.denoise(x_t, t), std)
        return logpdf.sum(axis=-1)

    posterior = textbook.Gaussian(
        mean=(n2 * DATA.mean + s2 * y) / (s2 + n2),
        std=np.sqrt(s2 * n2 / (s2 + n2)),
        betas=BETAS,
    )
    guided = guidance.classifier_guided(DATA.denoise, log_p, 1.0, SCHEDULE)
    x_t = jnp.asarray(np.random.default_rng(0).normal(size=(len(TIMES), 3)))
    found = jax.jit(guided)(x_t, TIMES)
    np.testing.assert_allclose(found, posterior.denoise(x_t, TIMES), rtol=1e-9)

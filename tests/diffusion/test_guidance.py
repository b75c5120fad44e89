"""Denoisers from networks, thresholding and guidance."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import denoiser

from diffusion_jax.diffusion import guidance, process, schedules
from diffusion_jax.diffusion.denoiser import Denoised, from_network

BETAS = np.linspace(1e-4, 0.02, 1000)
DATA = textbook.Gaussian(mean=0.3, std=0.5, betas=BETAS)
TIMES = np.array([1, 2, 10, 100, 500, 1000])
SCHEDULE = schedules.make("linear", 1000)


def plain(network):
    """A network without self-conditioning, as from_network calls it."""
    return lambda x_t, t, self_cond: network(x_t, t)


def x_0_of(denoise):
    """(x_t, t) -> x_0 of a denoiser."""
    return lambda x_t, t: denoise(x_t, t, None).x_0


class FromNetworkTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_exact_networks_agree(self):
        """The perfect network of each prediction denoises to the same E[x_0 | x_t].

        To float32's 2^-24 over the weight of the prediction: alpha for eps and scores,
        that of x_0 in the posterior mean for mu.
        """
        rng = np.random.default_rng(0)
        x_t = jnp.asarray(rng.normal(size=(len(TIMES), 3)), jnp.float32)
        table = textbook.table(BETAS)
        alpha_bar = table.alpha_bar[TIMES - 1]
        expected = DATA.x_0(x_t, jnp.float32(alpha_bar)[:, None])
        weights = {
            "eps": np.sqrt(alpha_bar),
            "score": np.sqrt(alpha_bar),
            "mu": table.of_x_0[TIMES - 1],
        }

        @self.variant
        def x_0(x_t, t):
            return {
                name: from_network(plain(DATA.network(name)), name, SCHEDULE)(
                    x_t, t, None
                ).x_0
                for name in process.PREDICTIONS
            }

        for name, actual in x_0(x_t, jnp.asarray(TIMES)).items():
            error = np.abs(actual - expected).max(1) * weights.get(name, 1.0)
            assert np.all(error < 40 * 2**-24), name

    @chex.variants(with_jit=True, without_jit=True)
    def test_time_of_the_network(self):
        """The network receives the authors' t - 1, i32, one per example: 0..T-1."""
        schedule = schedules.make("linear", 4)

        def network(x_t, t):
            chex.assert_shape(t, (2,))
            assert t.dtype == jnp.int32
            return jnp.broadcast_to(t[:, None].astype(jnp.float32), x_t.shape)

        denoise = self.variant(x_0_of(from_network(plain(network), "x0", schedule)))
        x_t = jnp.zeros((2, 3))
        for t in (1, 4):  # a scalar, as samplers pass it
            np.testing.assert_array_equal(denoise(x_t, jnp.asarray(t)), t - 1)
        each = denoise(x_t, jnp.array([1, 4]))
        np.testing.assert_array_equal(each, [[0, 0, 0], [3, 3, 3]])

    @chex.variants(with_jit=True, without_jit=True)
    def test_static_thresholding(self):
        """The predicted x_0 is clipped to [-1, 1], and unchanged inside."""
        denoise = guidance.static_thresholding(denoiser(lambda x_t, t: x_t))
        x_t = jnp.array([[-3.0, -1.0, -0.4, 0.0, 0.9, 1.0, 2.0]])
        expected = [[-1.0, -1.0, -0.4, 0.0, 0.9, 1.0, 1.0]]
        actual = self.variant(x_0_of(denoise))(x_t, jnp.asarray(1))
        np.testing.assert_array_equal(actual, np.float32(expected))


def test_zero_noise_predicted():
    """eps = 0 means that x_t is pure signal: x_0 = x_t / alpha_t (equation 15)."""
    denoise = from_network(plain(lambda x_t, t: 0 * x_t), "eps", SCHEDULE)
    alpha = np.sqrt(textbook.table(BETAS).alpha_bar[-1])
    actual = denoise(jnp.ones((1, 2)), jnp.asarray(1000), None).x_0
    np.testing.assert_allclose(actual, 1 / alpha, rtol=2e-6)


def test_unknown_prediction():
    """An unknown name raises an error that lists the known ones."""
    with pytest.raises(
        ValueError,
        match="Unknown diffusion.prediction 'noise'. Known: eps, x0, v, mu, score, edm",
    ):
        from_network(plain(lambda x_t, t: x_t), "noise", SCHEDULE)


@pytest.mark.parametrize("prediction", ["x0", "v", "mu"])
def test_pure_noise(prediction):
    """At jsd's T, where no signal is left, all but eps denoise to a finite x_0.

    A perfect network predicts the data's mean there.
    """
    data = textbook.Gaussian(0.3, 0.5, 1 / np.arange(10.0, 0, -1))
    schedule = schedules.make("jsd", 10)
    denoise = from_network(plain(data.network(prediction)), prediction, schedule)
    x_t = jnp.linspace(-2, 2, 8).reshape(2, 4)
    actual = jax.jit(x_0_of(denoise))(x_t, jnp.asarray(10))
    np.testing.assert_allclose(actual, 0.3, rtol=1e-5)


def test_model_var_values_of_the_network():
    """With a learned variance the second half of the last axis is model_var_values, and
    the first half gives the same x_0 as without them."""

    def network(x_t, t):
        return jnp.concatenate([jnp.cos(x_t), 7 * x_t], axis=-1)

    learned = from_network(plain(network), "v", SCHEDULE, learned_variance=True)
    x_0, model_var_values = learned(X_T, T_500, None)
    fixed = from_network(plain(lambda x_t, t: jnp.cos(x_t)), "v", SCHEDULE)
    expected = fixed(X_T, T_500, None)
    np.testing.assert_array_equal(x_0, expected.x_0)
    assert expected.model_var_values is None
    np.testing.assert_array_equal(model_var_values, 7 * X_T)


# Wrappers.

X_T = jnp.asarray(np.random.default_rng(1).normal(size=(2, 200)), jnp.float32)
T_500 = jnp.asarray(500)


def conditional(x_t, t):
    """Some x_0."""
    return 0.3 * x_t + 0.5


def unconditional(x_t, t):
    """Another x_0."""
    return jnp.sin(x_t)


CONDITIONAL, UNCONDITIONAL = denoiser(conditional), denoiser(unconditional)


def log_probability(x_t, t):
    """Any function of each example."""
    return -jnp.sum(x_t**2, axis=-1)


WRAPPERS = {
    **guidance.THRESHOLDING,
    "classifier_free": lambda denoise: guidance.classifier_free(
        denoise, denoise, 2.0, SCHEDULE
    ),
    "classifier_guided": lambda denoise: guidance.classifier_guided(
        denoise, log_probability, 2.0, SCHEDULE
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_pass_everything_on(name):
    """Every wrapper gives the denoiser its self_cond and keeps its model_var_values;
    x_0 depends on neither."""

    def both(x_t, t, self_cond):
        return Denoised(conditional(x_t, t) + 0 * self_cond, 7 * self_cond)

    expected = WRAPPERS[name](CONDITIONAL)(X_T, T_500, None)
    x_0, model_var_values = WRAPPERS[name](both)(X_T, T_500, jnp.cos(X_T))
    np.testing.assert_array_equal(x_0, expected.x_0)
    assert expected.model_var_values is None
    np.testing.assert_array_equal(model_var_values, 7 * jnp.cos(X_T))


def test_dynamic_thresholding():
    """An example is clipped at s, the 99.5 % quantile of |x_0|, and divided by it, if
    s > 1; other examples are unchanged."""
    x_0 = np.stack([3 * X_T[0], 0.2 * X_T[1]])
    denoise = guidance.dynamic_thresholding(denoiser(lambda x_t, t: x_t))
    s = np.quantile(np.abs(x_0[0]), 0.995)
    assert s > 1 > np.abs(x_0[1]).max()
    expected = np.stack([np.clip(x_0[0], -s, s) / s, x_0[1]])
    np.testing.assert_allclose(denoise(x_0, T_500, None).x_0, expected, rtol=1e-5)


@jax.jit
def guided(scale, x_t, t):
    """x_0 with classifier-free guidance, compiled once."""
    denoise = guidance.classifier_free(CONDITIONAL, UNCONDITIONAL, scale, SCHEDULE)
    return denoise(x_t, t, None).x_0


@hypothesis.given(scale=st.floats(-1, 8))
@hypothesis.settings(max_examples=20, deadline=None)
def test_classifier_free_is_linear(scale):
    """(1 - w) x_0(none) + w x_0(cond): w = 1 is conditional, 0 unconditional."""
    expected = (1 - scale) * np.sin(X_T) + scale * (0.3 * X_T + 0.5)
    np.testing.assert_allclose(
        guided(scale, X_T, T_500), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.usefixtures("x64")
def test_classifier_free_mixes_networks():
    """Guiding x_0 equals guiding the network's output, whatever it predicts."""

    def mixed(x_t, t):
        return -1.5 * unconditional(x_t, t) + 2.5 * conditional(x_t, t)

    @jax.jit
    def both(x_t):
        pairs = {}
        for prediction in process.PREDICTIONS:
            of = [
                from_network(plain(network), prediction, SCHEDULE)
                for network in (conditional, unconditional, mixed)
            ]
            guide = guidance.classifier_free(of[0], of[1], 2.5, SCHEDULE)
            pairs[prediction] = [d(x_t, T_500, None).x_0 for d in (guide, of[2])]
        return pairs

    for prediction, (x_0, expected) in both(jnp.asarray(X_T, jnp.float64)).items():
        np.testing.assert_allclose(
            x_0, expected, rtol=1e-9, atol=1e-9, err_msg=prediction
        )


def test_guidance_within_an_interval():
    """Guidance applies at times whose log-SNR lies in the interval, ends included;
    elsewhere the prediction is conditional, per example."""
    t = np.array([1, 200, 500, 800, 1000])
    interval = tuple(float(SCHEDULE(t)) for t in (800, 200))
    denoise = jax.jit(
        x_0_of(
            guidance.classifier_free(
                CONDITIONAL, UNCONDITIONAL, 2.0, SCHEDULE, interval
            )
        )
    )
    x_t = jnp.ones((5, 3))
    expected = np.where([0, 1, 1, 1, 0], 2 * 0.8 - np.sin(1), 0.8)[:, None]
    x_0 = denoise(x_t, jnp.asarray(t))
    np.testing.assert_allclose(x_0, np.broadcast_to(expected, (5, 3)), rtol=1e-5)
    for i in range(5):  # and for a scalar time, as samplers pass it
        np.testing.assert_allclose(denoise(x_t, t[i]), expected[i, 0], rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_classifier_guided_is_bayes_rule():
    """For data N(0.3, s^2) observed as y = x_0 + noise: the exact denoiser guided by
    p(y | x_t) with scale 1 is the exact denoiser of p(x_0 | y), which is normal.

    p(y | x_t) is N(E[x_0 | x_t], Var(x_0 | x_t) + noise^2).
    """
    y, s2 = 1.1, DATA.std**2

    @jax.jit
    def both(x_t, t, n2):
        def log_p(x_t, t):
            posterior_variance = s2 / (1 + s2 * jnp.exp(SCHEDULE(t)))[:, None]
            std = jnp.sqrt(posterior_variance + n2)
            logpdf = jax.scipy.stats.norm.logpdf(y, DATA.denoise(x_t, t), std)
            return logpdf.sum(axis=-1)

        posterior = textbook.Gaussian(
            mean=(n2 * DATA.mean + s2 * y) / (s2 + n2),
            std=jnp.sqrt(s2 * n2 / (s2 + n2)),
            betas=BETAS,
        )
        exact = denoiser(DATA.denoise)
        guided = guidance.classifier_guided(exact, log_p, 1.0, SCHEDULE)
        return guided(x_t, t, None).x_0, posterior.denoise(x_t, t)

    x_t = np.random.default_rng(0).normal(size=(len(TIMES), 3))
    for noise in (0.1, 1.0):
        np.testing.assert_allclose(*both(x_t, TIMES, noise**2), rtol=1e-9)

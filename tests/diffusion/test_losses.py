"""The variational bound against closed forms, term by term and in total."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook

from diffusion_jax.diffusion import gaussians, losses, process, schedules

STD = 0.5
LINEAR = textbook.linear_table()

# The mean of a quadratic over x_0 ~ N(0, STD^2) and eps ~ N(0, 1) is its mean over
# (+-STD, +-1): the expectations below are exact, without sampling.
SIGNED_X_0 = np.array([[STD], [STD], [-STD], [-STD]])
SIGNED_EPS = np.array([[1.0], [-1.0], [1.0], [-1.0]])


# For speed: one compilation instead of one per operation.
prior_term = jax.jit(losses.prior_term, static_argnums=1)
decoder_term = jax.jit(losses.decoder_term)
reverse_log_variance = jax.jit(losses.reverse_log_variance, static_argnums=(0, 1))


def over_time(function, num_timesteps, first=2):
    """Maps (t, logsnr_s, logsnr_t) -> [B] over t = first..T of the linear schedule."""
    schedule = schedules.make("linear", num_timesteps)
    t = jnp.arange(first, num_timesteps + 1)
    values = jax.jit(jax.vmap(function))(t, schedule(t - 1), schedule(t))
    return np.asarray(values).mean(1)


def exact_log_variance(std, l_s, l_t):
    """Of the true p(x_s | x_t) for data N(0, std^2): q's, plus that of x_0."""
    x_0_variance = std**2 / (1 + std**2 * jnp.exp(l_t))  # Var(x_0 | x_t)
    weight, _ = process.posterior_coefficients(l_s, l_t)
    return jnp.log(process.posterior_variance(l_s, l_t) + weight**2 * x_0_variance)


class SimpleTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_by_hand(self):
        """The mean of squared differences, per example, for data of any rank."""
        rng = np.random.default_rng(0)
        shapes = (3,), (3, 5), (3, 2, 2, 2)
        pairs = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in shapes]
        simple = self.variant(lambda pairs: [losses.simple(*pair) for pair in pairs])
        for (target, output), actual in zip(pairs, simple(pairs), strict=True):
            expected = [np.mean((a - b) ** 2) for a, b in zip(target, output)]
            np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("x_0, bits", [(1.0, 2.911295e-5), (0.0, 5.874784e-10)])
def test_published_prior(x_0, bits):
    """L_T of the linear schedule, in bits/dim, for x_0^2 = 1 and 0."""
    data = np.full((2, 3), x_0)
    term = prior_term(data, schedules.make("linear", 1000))
    np.testing.assert_allclose(term / 3 / np.log(2), bits, rtol=3e-7)


@pytest.mark.parametrize("x_0, tolerance", [(1.0, 1e-6), (0.0, 0.01)])
def test_prior_in_single_precision(x_0, tolerance):
    """L_T in float32: to 1e-6 with signal, to 1e-2 of 6e-10 bits without."""
    alpha_bar = LINEAR.alpha_bar[-1]
    expected = 0.5 * (alpha_bar * x_0**2 - alpha_bar - np.log1p(-alpha_bar))
    schedule = schedules.make("linear", 1000)
    term = prior_term(np.full((1, 1), x_0, np.float32), schedule)
    np.testing.assert_allclose(term, expected, rtol=tolerance)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_prior_is_finite(name):
    """L_T is finite and non-negative; it is 0 for jsd, which ends in pure noise."""
    schedule = schedules.make(name, 1000)
    term = prior_term(np.ones((1, 1), np.float32), schedule)
    assert np.isfinite(term) and term >= 0
    assert (term == 0) == (name == "jsd")


@pytest.mark.usefixtures("x64")
def test_published_bound_of_no_prediction():
    """eps predicted as 0, fixedsmall: the terms t > 1 sum to 14.67292 bits/dim.

    The error of x_0 is then eps sigma / alpha: the term is quadratic in eps, its mean
    is its value at eps = 1, for any x_0.
    """

    def term(t, l_s, l_t):
        x_0 = jnp.array([[0.3], [-0.8]])
        x_t = process.q_sample(x_0, l_t, jnp.ones_like(x_0))
        x_0_hat = process.x0_from_eps(x_t, jnp.zeros_like(x_t), l_t)
        log_variance = jnp.log(process.posterior_variance(l_s, l_t))
        return losses.transition_term(x_0, x_t, x_0_hat, l_s, l_t, log_variance)

    bits = over_time(term, 1000).sum() / np.log(2)
    np.testing.assert_allclose(bits, 14.67292, atol=5e-6)


@pytest.mark.usefixtures("x64")
def test_published_cost_of_the_large_variance():
    """A perfect mean with fixedlarge costs 0.48642 bits/dim more than fixedsmall.

    Over t > 1. This part of the KL depends only on the variances: constant for any
    data, and 0 for fixedsmall.
    """
    x_0 = jnp.array([[0.3], [-0.8]])

    def term(variance):
        def of_time(t, l_s, l_t):
            x_t = process.q_sample(x_0, l_t, jnp.ones_like(x_0))
            log_variance = jnp.log(process.VARIANCES[variance](l_s, l_t))
            return losses.transition_term(x_0, x_t, x_0, l_s, l_t, log_variance)

        return over_time(of_time, 1000).sum() / np.log(2)

    np.testing.assert_allclose(term("fixedlarge"), 0.48642, atol=5e-6)
    assert term("fixedsmall") == 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_timesteps", [10, 1000])
def test_information_telescopes(num_timesteps):
    """With exact reverse steps, each term equals the information gained in the step.

    For data N(0, s^2) the true p(x_s | x_t) is normal, and the mean of
    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) is I(x_0; x_s) - I(x_0; x_t), with
    I(x_0; x_t) = 1/2 log(1 + s^2 SNR_t).
    """
    data = textbook.Gaussian(0.0, STD, np.linspace(1e-4, 0.02, num_timesteps))

    def term(t, l_s, l_t):
        x_t = process.q_sample(SIGNED_X_0, l_t, SIGNED_EPS)
        x_0_hat = data.denoise(x_t, t)
        log_variance = exact_log_variance(STD, l_s, l_t)
        return losses.transition_term(SIGNED_X_0, x_t, x_0_hat, l_s, l_t, log_variance)

    alpha_bar = textbook.table(data.betas).alpha_bar
    information = 0.5 * np.log1p(STD**2 * alpha_bar / (1 - alpha_bar))
    expected = information[:-1] - information[1:]
    np.testing.assert_allclose(over_time(term, num_timesteps), expected, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_terms_are_the_error_times_the_change_of_snr():
    """With fixedsmall, L_{t-1} = 1/2 (SNR_s - SNR_t) E (x_0 - x_0_hat)^2.

    Kingma et al. 2021, equation 14, for data N(0, s^2) and the exact denoiser, whose
    error is s^2 / (1 + s^2 SNR_t). The sum is an upper sum of an integral, the
    information, and converges to it as 1/T.
    """

    def gap(num_timesteps):
        betas = np.linspace(0.1 / num_timesteps, 20 / num_timesteps, num_timesteps)
        data = textbook.Gaussian(0.0, STD, betas)
        schedule = schedules.from_betas(betas)

        def term(t):
            l_s, l_t = schedule(t - 1), schedule(t)
            x_t = process.q_sample(SIGNED_X_0, l_t, SIGNED_EPS)
            log_variance = jnp.log(process.posterior_variance(l_s, l_t))
            x_0_hat = data.denoise(x_t, t)
            return losses.transition_term(
                SIGNED_X_0, x_t, x_0_hat, l_s, l_t, log_variance
            )

        t = jnp.arange(num_timesteps // 50 + 1, num_timesteps + 1)  # from a fixed time
        terms = np.asarray(jax.jit(jax.vmap(term))(t)).mean(1)
        snr = textbook.table(betas).alpha_bar / (1 - textbook.table(betas).alpha_bar)
        s, t = snr[t - 2], snr[t - 1]
        np.testing.assert_allclose(
            terms, 0.5 * (s - t) * STD**2 / (1 + STD**2 * t), rtol=1e-8
        )
        information = 0.5 * np.log((1 + STD**2 * s[0]) / (1 + STD**2 * t[-1]))
        return terms.sum() - information

    gaps = [gap(num_timesteps) for num_timesteps in (1000, 2000, 4000)]
    assert min(gaps) > 0
    np.testing.assert_allclose(np.divide(gaps[:-1], gaps[1:]), 2, rtol=0.05)


@pytest.mark.usefixtures("x64")
def test_bound_of_a_perfect_model_is_the_entropy():
    """The total bound for quantised normal data and the exact reverse chain.

    decoder + transitions + prior is at least the entropy of the levels, and within
    0.1 % of it: the chain is exact for a density, while levels are intervals. Sums over
    levels are weighted by probability; noise is integrated by Gauss-Hermite.
    """
    std, num_timesteps = 0.25, 1000  # the range is four standard deviations
    data = textbook.Gaussian(0.0, std, LINEAR.betas)
    schedule = schedules.make("linear", num_timesteps)
    levels = np.arange(256) / 127.5 - 1
    log_variance = jnp.asarray(2 * np.log(std))
    log_p = gaussians.discretized_log_likelihood(levels, 0.0, log_variance)
    p = np.exp(log_p)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights /= weights.sum()
    x_0 = np.repeat(levels, 12)[:, None]
    eps = np.tile(nodes, 256)[:, None]
    probability = np.repeat(p, 12) * np.tile(weights, 256)

    def term(t):
        x_t = process.q_sample(x_0, schedule(t), eps)
        times = jnp.full(len(x_0), t)
        log_variance = exact_log_variance(std, schedule(t - 1), schedule(t))
        x_0_hat = data.denoise(x_t, t)
        terms = losses.vlb_term(x_0, x_t, x_0_hat, times, schedule, log_variance)
        return probability @ terms

    t = jnp.arange(1, num_timesteps + 1)
    bound = jax.jit(lambda t: jax.lax.map(term, t, batch_size=50))(t).sum()
    prior = prior_term(levels[:, None], schedule)
    bound = float(bound + p @ prior)
    entropy = -float(p @ log_p)
    assert entropy < bound < 1.001 * entropy


@functools.partial(jax.jit, static_argnums=1)
def perfect_transition(t, name):
    """The term for x_0_hat = x_0, with a fixed variance."""
    schedule = schedules.make("linear", 1000)
    x_0, x_t = jnp.array([[0.3, -0.9]]), jnp.array([[1.0, 0.1]])
    log_variance = losses.reverse_log_variance(name, schedule, t)
    ends = schedule(t - 1), schedule(t)
    return losses.transition_term(x_0, x_t, x_0, *ends, log_variance)


@hypothesis.given(t=st.integers(2, 1000), name=st.sampled_from([*process.VARIANCES]))
@hypothesis.settings(max_examples=30, deadline=None)
def test_a_perfect_prediction_costs_only_the_variance(t, name):
    """KL with the exact x_0: 0 with the posterior variance, else the KL of variances.

    1/2 (r - 1 - log r), with r = beta-tilde_t / beta_t, in float32.
    """
    term = perfect_transition(t, name)
    ratio = {
        "fixedsmall": 1.0,
        "fixedlarge": LINEAR.posterior_variance[t - 1] / LINEAR.betas[t - 1],
    }[name]
    expected = 2 * 0.5 * (ratio - 1 - np.log(ratio))
    np.testing.assert_allclose(term, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_reverse_log_variance_of_the_authors(name):
    """log([b~_1, beta_1, ...]) and log([b~_1, b~_1, ...]), from the authors' table."""
    betas = schedules.SCHEDULES[name](1000)
    schedule, t = schedules.make(name, 1000), jnp.arange(1, 1001)
    small = textbook.table(betas).posterior_variance
    for variance, table in (("fixedlarge", betas), ("fixedsmall", small)):
        expected = np.log(np.append(small[1], table[1:]))
        actual = reverse_log_variance(variance, schedule, t)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11)


def test_unknown_variance():
    """An unknown name raises an error that lists the known ones."""
    with pytest.raises(ValueError, match="diffusion.variance 'small'.*fixedsmall"):
        losses.reverse_log_variance("small", schedules.make("linear", 2), jnp.array(1))


@pytest.mark.usefixtures("x64")
def test_decoder_at_the_first_time():
    """L_0 with a perfect mean and beta-tilde_2 is the published 1.305665145 bits."""
    x_0 = np.full((2, 3), 77 / 127.5 - 1)
    schedule = schedules.make("linear", 1000)
    log_variance = reverse_log_variance("fixedlarge", schedule, np.array(1))
    bits = decoder_term(x_0, x_0, log_variance) / 3 / np.log(2)
    np.testing.assert_allclose(bits, 1.305665145, rtol=1e-9)


class BoundTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.schedule = schedules.make("linear", 1000)
        self.t = jnp.array([1, 2, 500, 1000])
        levels, eps = rng.integers(0, 256, (4, 3, 2)), rng.normal(size=(4, 3, 2))
        self.x_0 = (levels / 127.5 - 1).astype(np.float32)
        self.eps = eps.astype(np.float32)

    def bound(self, error, log_variance):
        x_t = process.q_sample(self.x_0, self.schedule(self.t), self.eps)
        return losses.vlb_term(
            self.x_0, x_t, self.x_0 + error, self.t, self.schedule, log_variance
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_terms(self):
        """The decoder term at t = 1, the transition term elsewhere, per example."""

        def terms(error):
            t, l_t = self.t, self.schedule(self.t)
            log_variance = losses.reverse_log_variance("fixedlarge", self.schedule, t)
            x_t = process.q_sample(self.x_0, l_t, self.eps)
            x_0_hat, l_s = self.x_0 + error, self.schedule(t - 1)
            return (
                self.bound(error, log_variance),
                losses.decoder_term(self.x_0, x_0_hat, log_variance),
                losses.transition_term(self.x_0, x_t, x_0_hat, l_s, l_t, log_variance),
            )

        bound, decoder, transition = self.variant(terms)(0.1 * self.eps)
        chex.assert_shape([bound, decoder, transition], (4,))
        np.testing.assert_allclose(bound[0], decoder[0], rtol=1e-5)
        np.testing.assert_allclose(bound[1:], transition[1:], rtol=1e-5)

    def test_gradients_are_finite(self):
        """Both borders, t = 1 and T, give gradients that are finite and not all 0.

        With an elementwise log-variance, as for a learned one.
        """
        log_variance = np.log(LINEAR.betas[np.asarray(self.t) - 1])
        log_variance = np.zeros((4, 3, 2)) + log_variance[:, None, None]
        gradient = jax.jit(jax.grad(lambda *args: self.bound(*args).sum(), (0, 1)))
        for values in gradient(0.1 * self.eps, np.float32(log_variance)):
            chex.assert_tree_all_finite(values)
            assert np.all(np.any(values != 0, axis=(1, 2)))


@jax.jit
def bound_of_table(error, table, t):
    """The bound and its gradient, with the schedule as an argument: compiled once."""

    def total(error):
        schedule = table.__getitem__
        x_0, eps = jnp.full((3, 2), -1.0), jnp.ones((3, 2))
        x_t = process.q_sample(x_0, schedule(t), eps)
        log_variance = losses.reverse_log_variance("fixedsmall", schedule, t)
        terms = losses.vlb_term(x_0, x_t, x_0 + error, t, schedule, log_variance)
        return terms.sum()

    return jax.value_and_grad(total)(error)


@pytest.mark.parametrize("num_timesteps", [2, 1000])
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_bound_is_finite(name, num_timesteps):
    """Every term and gradient is finite, including jsd's pure noise."""
    table = schedules.make(name, num_timesteps)(np.arange(num_timesteps + 1))
    t = np.array([1, 2, num_timesteps])
    chex.assert_tree_all_finite(bound_of_table(np.full((3, 2), 0.1), table, t))


# Weightings.


def outputs_of(prediction, schedule, t, x_0_hat=None, seed=0):
    """The outputs of a network of that prediction that predicts x_0_hat, at t [B]."""
    rng = np.random.default_rng(seed)
    x_0, eps = rng.uniform(-1, 1, (len(t), 3)), rng.normal(size=(len(t), 3))
    x_0_hat = rng.uniform(-1, 1, x_0.shape) if x_0_hat is None else x_0_hat
    row, logsnrs = process.PREDICTIONS[prediction], (schedule(t - 1), schedule(t))
    x_t = process.q_sample(x_0, logsnrs[1], eps)
    eps_hat = process.eps_from_x0(x_t, x_0_hat, logsnrs[1])
    return losses.ModelOutput(
        x_0=x_0,
        x_t=x_t,
        t=t,
        target=row.target(x_0, eps, x_t, *logsnrs),
        output=row.target(x_0_hat, eps_hat, x_t, *logsnrs),
        x_0_hat=x_0_hat,
        gain=row.gain(*logsnrs),
        model_var_values=None,
    )


SCHEDULE = schedules.make("linear", 1000)
SOME = np.array([1, 2, 50, 101, 131, 500, 999, 1000])


@functools.cache
def every_loss():
    """prediction -> loss -> [B], for networks that predict the same x_0_hat."""

    @jax.jit
    def run(t):
        outputs = {p: outputs_of(p, SCHEDULE, t) for p in process.PREDICTIONS}
        return {
            p: {
                name: loss(predicted, SCHEDULE, "fixedlarge")
                for name, loss in losses.LOSSES.items()
            }
            | {"x0 error": losses.simple(predicted.x_0, predicted.x_0_hat)}
            for p, predicted in outputs.items()
        }

    return jax.device_get(run(jnp.asarray(SOME)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", [n for n in losses.LOSSES if n not in ("simple", "hybrid")]
)
def test_weighted_losses_are_independent_of_the_prediction(name):
    """Losses that weigh the error of x_0 do not depend on the parametrisation: they
    equal the weight times the squared error of x_0_hat."""
    by_prediction = every_loss()
    expected = by_prediction["x0"]
    for prediction, values in by_prediction.items():
        np.testing.assert_allclose(
            values[name], expected[name], rtol=1e-7, err_msg=prediction
        )
    snr = LINEAR.alpha_bar[SOME - 1] / (1 - LINEAR.alpha_bar[SOME - 1])
    weight = {"min_snr": np.minimum(snr, 5), "edm": snr + 4}.get(name)
    if weight is not None:  # 1 / c_out^2 = 1 / level^2 + 1 / 0.5^2
        np.testing.assert_allclose(
            expected[name], weight * expected["x0 error"], rtol=1e-9
        )


@pytest.mark.usefixtures("x64")
def test_weights_of_the_papers():
    """Min-SNR-5 weights the error of eps by 0.5857086 at the authors' t = 100, and by 1
    from 130 on; EDM's weight at level 0.5 is 8, and 1 for its network's output; the
    error of the score is that of eps over sigma^2 (denoising score matching)."""
    found = every_loss()
    ratio = found["eps"]["min_snr"] / found["eps"]["simple"]
    np.testing.assert_allclose(ratio[3], 0.5857086, rtol=2e-7)
    np.testing.assert_allclose(ratio[SOME >= 131], 1, rtol=1e-12)
    np.testing.assert_allclose(losses.edm_weight(jnp.log(4.0)), 8, rtol=1e-12)
    np.testing.assert_allclose(found["edm"]["edm"], found["edm"]["simple"], rtol=1e-12)
    variance = 1 - LINEAR.alpha_bar[SOME - 1]
    matching = variance * found["score"]["simple"]
    np.testing.assert_allclose(matching, found["eps"]["simple"], rtol=1e-9)


# Learned variances.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ends_of_the_learned_range(name):
    """-1 is fixedsmall and 1 is beta_t, elementwise, which differs from fixedlarge only
    at t = 1; "learned" returns model_var_values."""
    schedule, t = schedules.make(name, 100), jnp.arange(1, 101)

    @jax.jit
    def log_variances():
        values = [("learned_range", -1.0), ("learned_range", 1.0), ("learned", -3.0)]
        of_values = [
            losses.reverse_log_variance(
                variance, schedule, t, jnp.full((100, 2), value)
            )
            for variance, value in values
        ]
        of_none = [
            losses.reverse_log_variance(variance, schedule, t)[:, None]
            for variance in ("fixedsmall", "fixedlarge")
        ]
        return *of_values, *of_none

    low, high, learned, small, large = log_variances()
    betas = np.log(schedules.SCHEDULES[name](100))[:, None]
    same = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    same(low, np.broadcast_to(small, (100, 2)))
    same(high, np.broadcast_to(betas, (100, 2)))
    same(high[1:], np.broadcast_to(large[1:], (99, 2)))
    same(learned, np.full((100, 2), -3.0))


@pytest.mark.usefixtures("x64")
def test_hybrid_separates_mean_and_variance(monkeypatch):
    """Its gradient with respect to the mean is that of L_simple, with respect to the
    variance that of 0.001 T times the bound; with weight 0 it is L_simple."""
    values = np.random.default_rng(1).uniform(-1, 1, (len(SOME), 3))
    predicted = jax.jit(lambda t: outputs_of("x0", SCHEDULE, t))(jnp.asarray(SOME))

    def total(name, output, values):
        changed = predicted._replace(
            output=output, x_0_hat=output, model_var_values=values
        )
        return losses.LOSSES[name](changed, SCHEDULE, "learned_range").sum()

    @jax.jit
    def gradients(*outputs):
        names = "hybrid", "simple", "vlb"
        return [jax.grad(functools.partial(total, n), (0, 1))(*outputs) for n in names]

    hybrid, simple, vlb = gradients(predicted.output, values)
    np.testing.assert_allclose(hybrid[0], simple[0], rtol=1e-12)
    expected = 0.001 * 1000 * vlb[1]
    assert np.all(expected[1:] != 0)
    np.testing.assert_allclose(hybrid[1], expected, rtol=1e-12)
    monkeypatch.setattr(losses, "HYBRID_WEIGHT", 0.0)
    totals = jax.jit(
        lambda *outputs: [total(n, *outputs) for n in ("hybrid", "simple")]
    )
    np.testing.assert_allclose(*totals(predicted.output, values), rtol=1e-12)


# The bound in continuous time.


@pytest.mark.usefixtures("x64")
def test_continuous_bound_depends_only_on_the_ends():
    """For data N(0, s^2) and the exact denoiser its integral over [1, T] is
    1/2 log((1 + s^2 SNR_1) / (1 + s^2 SNR_T)), for any schedule: the limit of the sum
    of discrete terms in the tests above.

    By 12 Gauss-Legendre nodes on each half of an interval between integer times.
    """
    nodes, weights = np.polynomial.legendre.leggauss(12)
    start = np.arange(1, 20, 0.5)[:, None]
    t = (start + (nodes + 1) / 4).ravel()
    weights = np.tile(weights / 4, len(start))

    def integral(schedule, t):
        # E (x_0 - x_0_hat)^2 = s^2 / (1 + s^2 SNR)
        error = STD**2 / (1 + STD**2 * jnp.exp(schedule(t)))
        value = weights @ (losses.continuous_weight(t, schedule) * error)
        return value, 1 + STD**2 * jnp.exp(schedule(jnp.array([1, 20])))

    names = ["linear", "cosine", *schedules.CURVES]
    run = jax.jit(lambda t: {n: integral(schedules.make(n, 20), t) for n in names})
    for name, (value, (first, last)) in run(t).items():
        expected = 0.5 * np.log(first / last)
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_continuous_loss_is_the_term():
    """The loss is the term in bits/dim, at integer and other times."""
    t = jnp.array([1.0, 1.5, 400.25, 1000.0])

    @jax.jit
    def both():
        p = outputs_of("v", SCHEDULE, t)
        squared = jnp.sum(jnp.square(p.x_0 - p.x_0_hat), axis=1)
        nats = losses.continuous_weight(t, SCHEDULE) * squared
        return losses.LOSSES["continuous"](p, SCHEDULE, "fixedlarge"), nats

    loss, nats = both()
    assert np.all(nats > 0)
    np.testing.assert_allclose(loss, nats / (3 * np.log(2)), rtol=1e-9)

"""The variational bound against closed forms, term by term and in sum."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from absl.testing import parameterized

from diffusion_jax.diffusion import gaussians, losses, process, schedules

STD = 0.5
LINEAR = textbook.linear_table()

# A quadratic's mean over x_0 ~ N(0, STD^2) and eps ~ N(0, 1) is its mean over the signs
# of (+-STD, +-1): expectations below are exact, without a draw.
SIGNED_X_0 = np.array([[STD], [STD], [-STD], [-STD]])
SIGNED_EPS = np.array([[1.0], [-1.0], [1.0], [-1.0]])


def over_time(function, num_timesteps, first=2):
    """Maps (t, logsnr_s, logsnr_t) -> [B] over t = first..T of the linear schedule."""
    schedule = schedules.make("linear", num_timesteps)
    t = jnp.arange(first, num_timesteps + 1)
    values = jax.jit(jax.vmap(function))(t, schedule(t - 1), schedule(t))
    return np.asarray(values).mean(1)


def exact_log_variance(std, l_s, l_t):
    """Of the true p(x_s | x_t), data N(0, std^2): q's, and that of not knowing x_0."""
    doubt = std**2 / (1 + std**2 * jnp.exp(l_t))  # Var(x_0 | x_t)
    weight, _ = process.posterior_coefficients(l_s, l_t)
    return jnp.log(process.posterior_variance(l_s, l_t) + weight**2 * doubt)


class SimpleTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(shape=[(3,), (3, 5), (3, 2, 2, 2)])
    def test_by_hand(self, shape):
        """The mean of squared differences, an example at a time."""
        rng = np.random.default_rng(0)
        target, output = rng.normal(size=(2, *shape)).astype(np.float32)
        expected = [np.mean((a - b) ** 2) for a, b in zip(target, output, strict=True)]
        actual = self.variant(losses.simple)(target, output)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("x_0, bits", [(1.0, 2.911295e-5), (0.0, 5.874784e-10)])
def test_published_prior(x_0, bits):
    """L_T of the linear schedule, in bits a dimension, for x_0^2 = 1 and 0."""
    data = jnp.full((2, 3), x_0)
    term = losses.prior_term(data, schedules.make("linear", 1000))
    np.testing.assert_allclose(term / 3 / np.log(2), bits, rtol=3e-7)


@pytest.mark.parametrize("x_0, tolerance", [(1.0, 1e-6), (0.0, 0.01)])
def test_prior_in_single_precision(x_0, tolerance):
    """L_T in float32: 1e-6 where there is a signal, 1e-2 of the 6e-10 bits of none."""
    alpha_bar = LINEAR.alpha_bar[-1]
    expected = 0.5 * (alpha_bar * x_0**2 - alpha_bar - np.log1p(-alpha_bar))
    schedule = schedules.make("linear", 1000)
    term = losses.prior_term(jnp.full((1, 1), x_0), schedule)
    np.testing.assert_allclose(term, expected, rtol=tolerance)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_prior_is_finite(name):
    """L_T is finite and not negative; it is 0 for jsd, which ends in pure noise."""
    x_0 = jnp.ones((1, 1))
    term = losses.prior_term(x_0, schedules.make(name, 1000))
    assert np.isfinite(term) and term >= 0
    assert (term == 0) == (name == "jsd")


@pytest.mark.usefixtures("x64")
def test_published_bound_of_no_prediction():
    """eps predicted as 0, fixedsmall: the terms t > 1 sum to 14.67292 bits a dimension.

    The error of x_0 is then eps sigma / alpha: the term is a square of eps, whose mean
    is its value at eps = 1, whatever x_0.
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
    """A perfect mean with fixedlarge costs 0.48642 bits a dimension over fixedsmall.

    Over t > 1. The part of the KL that knows only the variances: constant, whatever the
    data; fixedsmall's is 0.
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
    """A model whose reverse steps are exact pays the information it uncovers, no more.

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
    error is s^2 / (1 + s^2 SNR_t). The sum is an upper sum of the integral that is the
    information, and comes to it as 1/T.
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
    """All of the bound, for quantised normal data and the exact reverse chain.

    decoder + transitions + prior is at least the entropy of the levels, and within
    0.1 % of it: the chain is exact for a density, and a level is not a point. Levels
    are summed with their probabilities; noise by Gauss-Hermite.
    """
    std, num_timesteps = 0.25, 1000  # the data's range is four deviations
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
    prior = losses.prior_term(levels[:, None], schedule)
    bound = float(bound + p @ prior)
    entropy = -float(p @ log_p)
    assert entropy < bound < 1.001 * entropy


@hypothesis.given(t=st.integers(2, 1000), name=st.sampled_from([*process.VARIANCES]))
@hypothesis.settings(max_examples=30, deadline=None)
def test_a_perfect_prediction_pays_for_the_variance_alone(t, name):
    """KL with the exact x_0: 0 with the posterior's own variance, else that of widths.

    1/2 (r - 1 - log r), with r = beta-tilde_t / beta_t, in float32.
    """
    schedule = schedules.make("linear", 1000)
    x_0, x_t = jnp.array([[0.3, -0.9]]), jnp.array([[1.0, 0.1]])
    l_s, l_t = schedule(t - 1), schedule(t)
    log_variance = losses.reverse_log_variance(name, schedule, jnp.asarray(t))
    term = losses.transition_term(x_0, x_t, x_0, l_s, l_t, log_variance)
    ratio = {
        "fixedsmall": 1.0,
        "fixedlarge": LINEAR.posterior_variance[t - 1] / LINEAR.betas[t - 1],
    }[name]
    expected = 2 * 0.5 * (ratio - 1 - np.log(ratio))
    np.testing.assert_allclose(term, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_reverse_log_variance_of_the_authors(name):
    """log([b~_1, beta_1, ...]) and log([b~_1, b~_1, ...]), by the authors' table."""
    betas = schedules.SCHEDULES[name](1000)
    schedule, t = schedules.make(name, 1000), jnp.arange(1, 1001)
    small = textbook.table(betas).posterior_variance
    for variance, table in (("fixedlarge", betas), ("fixedsmall", small)):
        expected = np.log(np.append(small[1], table[1:]))
        actual = losses.reverse_log_variance(variance, schedule, t)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11)


def test_unknown_variance():
    """A name that is not in the table is refused with those that are."""
    with pytest.raises(ValueError, match="'small'.*fixedsmall.*fixedlarge"):
        losses.reverse_log_variance("small", schedules.make("linear", 2), jnp.array(1))


@pytest.mark.usefixtures("x64")
def test_decoder_at_the_first_time():
    """L_0 of a perfect mean and beta-tilde_2 is the published 1.305665145 bits."""
    x_0 = jnp.full((2, 3), 77 / 127.5 - 1)
    schedule = schedules.make("linear", 1000)
    log_variance = losses.reverse_log_variance("fixedlarge", schedule, jnp.array(1))
    bits = losses.decoder_term(x_0, x_0, log_variance) / 3 / np.log(2)
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
        """The decoder's term where t = 1, the transition's elsewhere, per example."""

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

        A log-variance an entry, as a learned one is.
        """
        log_variance = np.log(LINEAR.betas[np.asarray(self.t) - 1])
        log_variance = np.zeros((4, 3, 2)) + log_variance[:, None, None]
        gradient = jax.jit(jax.grad(lambda *args: self.bound(*args).sum(), (0, 1)))
        for values in gradient(0.1 * self.eps, np.float32(log_variance)):
            chex.assert_tree_all_finite(values)
            assert np.all(np.any(values != 0, axis=(1, 2)))


@jax.jit
def bound_of_table(error, table, t):
    """The bound and its gradient, with the schedule an argument: compiled once."""

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
    """Every term and gradient is finite, for jsd's pure noise as for the others."""
    table = schedules.make(name, num_timesteps)(np.arange(num_timesteps + 1))
    t = np.array([1, 2, num_timesteps])
    chex.assert_tree_all_finite(bound_of_table(np.full((3, 2), 0.1), table, t))


# Weightings.


def guess_of(prediction, schedule, t, x_0_hat=None, seed=0):
    """A network of that prediction that means x_0_hat, at times t [B]."""
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
    """prediction -> loss -> [B], for networks that mean the same x_0_hat."""

    @jax.jit
    def run(t):
        guesses = {p: guess_of(p, SCHEDULE, t) for p in process.PREDICTIONS}
        return {
            p: {
                name: loss(guess, SCHEDULE, "fixedlarge")
                for name, loss in losses.LOSSES.items()
            }
            | {"x0 error": losses.simple(guess.x_0, guess.x_0_hat)}
            for p, guess in guesses.items()
        }

    return jax.device_get(run(jnp.asarray(SOME)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", [n for n in losses.LOSSES if n not in ("simple", "hybrid")]
)
def test_a_weight_of_x_0_knows_no_prediction(name):
    """Losses that are about x_0 give the same value for every prediction that means
    the same x_0_hat: the weight times its squared error."""
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
    """Min-SNR-5 weighs the error of eps by 0.5857086 at the authors' t = 100, and by 1
    from 130 on; EDM's weight at level 0.5 is 8, and 1 in units of its network; the
    error of scores is that of eps over sigma^2 (denoising score matching)."""
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
    """Values of -1 are fixedsmall and values of 1 are beta_t, entry by entry, in which
    fixedlarge differs at t = 1 alone; "learned" is the values themselves."""
    schedule, t = schedules.make(name, 100), jnp.arange(1, 101)

    def found(variance, value):
        values = jnp.full((100, 2), value)
        return losses.reverse_log_variance(variance, schedule, t, values)

    small, large = (
        losses.reverse_log_variance(variance, schedule, t)[:, None]
        for variance in ("fixedsmall", "fixedlarge")
    )
    betas = np.log(schedules.SCHEDULES[name](100))[:, None]
    same = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    same(found("learned_range", -1.0), np.broadcast_to(small, (100, 2)))
    same(found("learned_range", 1.0), np.broadcast_to(betas, (100, 2)))
    same(found("learned_range", 1.0)[1:], np.broadcast_to(large[1:], (99, 2)))
    same(found("learned", -3.0), np.full((100, 2), -3.0))


@pytest.mark.usefixtures("x64")
def test_hybrid_teaches_mean_and_variance_apart(monkeypatch):
    """Its gradient with respect to the mean is that of L_simple, and with respect to
    the variance that of 0.001 T times the bound; without that weight it is L_simple."""
    t = jnp.asarray(SOME)
    guess = guess_of("x0", SCHEDULE, t)
    values = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, guess.x_0.shape))

    def total(name, output, values):
        said = guess._replace(output=output, x_0_hat=output, model_var_values=values)
        return losses.LOSSES[name](said, SCHEDULE, "learned_range").sum()

    def gradients(name):
        run = jax.jit(jax.grad(functools.partial(total, name), (0, 1)))
        return run(guess.output, values)

    of_mean, of_variance = gradients("hybrid")
    np.testing.assert_allclose(of_mean, gradients("simple")[0], rtol=1e-12)
    expected = 0.001 * 1000 * gradients("vlb")[1]
    assert np.all(expected[1:] != 0)
    np.testing.assert_allclose(of_variance, expected, rtol=1e-12)
    monkeypatch.setattr(losses, "HYBRID_WEIGHT", 0.0)
    without = total("hybrid", guess.output, values)
    np.testing.assert_allclose(
        without, total("simple", guess.output, values), rtol=1e-12
    )


# The bound in real time.


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["linear", "cosine", *schedules.CURVES])
def test_continuous_bound_knows_the_ends_alone(name):
    """For data N(0, s^2) and the exact denoiser its integral over [1, T] is
    1/2 log((1 + s^2 SNR_1) / (1 + s^2 SNR_T)), whatever lies between: what the sum of
    the discrete terms comes to, as in the tests above.

    By 12 Gauss-Legendre nodes on each half of a piece between whole times.
    """
    schedule = schedules.make(name, 20)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    start = np.arange(1, 20, 0.5)[:, None]
    t = (start + (nodes + 1) / 4).ravel()
    weights = np.tile(weights / 4, len(start))

    def error(t):  # E (x_0 - x_0_hat)^2 = s^2 / (1 + s^2 SNR)
        return jnp.sqrt(STD**2 / (1 + STD**2 * jnp.exp(schedule(t))))[:, None]

    density = jax.jit(
        lambda t: losses.continuous_weight(t, schedule) * error(t)[:, 0] ** 2
    )
    integral = weights @ np.asarray(density(t))
    first, last = (1 + STD**2 * np.exp(schedule(t)) for t in (1, 20))
    np.testing.assert_allclose(integral, 0.5 * np.log(first / last), rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_continuous_loss_is_the_term():
    """The loss is the term a dimension, in bits, at whole and at real times."""
    t = jnp.array([1.0, 1.5, 400.25, 1000.0])
    guess = guess_of("v", SCHEDULE, t)
    found = losses.LOSSES["continuous"](guess, SCHEDULE, "fixedlarge")
    squared = jnp.sum(jnp.square(guess.x_0 - guess.x_0_hat), axis=1)
    nats = losses.continuous_weight(t, SCHEDULE) * squared
    assert np.all(nats > 0)
    np.testing.assert_allclose(found, nats / (3 * np.log(2)), rtol=1e-9)

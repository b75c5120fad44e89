"""The forward process and its posterior: Ho's tables, Bayes' rule, round trips."""

import math

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook

from diffusion_jax.diffusion import process, schedules

q_sample, q_step = jax.jit(process.q_sample), jax.jit(process.q_step)
LENGTHS = (1, 2, 1000, 4000)


def neighbours(name, num_timesteps):
    """Log-SNRs (s, t) with s = t - 1, for t = 1..T."""
    times = np.arange(num_timesteps + 1)
    logsnr = np.array(schedules.make(name, num_timesteps)(times))
    return logsnr[:-1], logsnr[1:]


@jax.jit  # for speed: one compilation instead of one per operation
def all_coefficients(l_s, l_t):
    return (
        process.step_variance(l_s, l_t),
        process.posterior_variance(l_s, l_t),
        *process.posterior_coefficients(l_s, l_t),
    )


def coefficients(name, num_timesteps):
    """Ours at every t: step and posterior variance, weights of x_0 and x_t."""
    return map(np.asarray, all_coefficients(*neighbours(name, num_timesteps)))


def textbook_coefficients(name, num_timesteps):
    """The same four by the formulas of the paper."""
    table = textbook.table(schedules.SCHEDULES[name](num_timesteps))
    return table.betas, table.posterior_variance, table.of_x_0, table.of_x_t


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("num_timesteps", LENGTHS)
def test_coefficients_of_the_paper(name, num_timesteps):
    """beta_t, beta-tilde_t and both weights of equation 7, at every t.

    The textbook's 1 - alpha_bar is only accurate to 1e-16 / (1 - alpha_bar_1), which is
    5e-12 for cosine with 4000 steps.
    """
    expected = textbook_coefficients(name, num_timesteps)
    for ours, theirs in zip(coefficients(name, num_timesteps), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-18)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_coefficients_in_single_precision(name):
    """In float32 the weights are accurate to 1e-6, the variances to 1e-4 relative.

    c = 1 - SNR_t / SNR_s takes the difference of two rounded log-SNRs, of up to 20 and
    0.02 apart: a relative error of 2 x 20 x 2^-25 / 0.02 = 6e-5 in c.
    """
    step, small, of_x_0, of_x_t = coefficients(name, 1000)
    betas, posterior_variance, table_x_0, table_x_t = textbook_coefficients(name, 1000)
    np.testing.assert_allclose(step, betas, rtol=1e-4)
    np.testing.assert_allclose(small, posterior_variance, rtol=1e-4)
    np.testing.assert_allclose(of_x_0, table_x_0, rtol=1e-4, atol=0)
    np.testing.assert_allclose(of_x_0, table_x_0, atol=1e-6, rtol=0)
    np.testing.assert_allclose(of_x_t, table_x_t, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("x64")
def test_published_coefficients():
    """beta-tilde and the weights of (x_0, x_t) at the authors' times 1, 487, 999."""
    _, small, of_x_0, of_x_t = coefficients("linear", 1000)
    np.testing.assert_allclose(
        small[np.array([1, 487, 999])],
        [5.453187661e-5, 0.009791571986, 0.01999998353],
        rtol=3e-10,
    )
    ends = np.array([1, 999])
    np.testing.assert_allclose(of_x_0[ends], [0.5452914995, 1.283514872e-4], rtol=3e-10)
    np.testing.assert_allclose(of_x_t[ends], [0.454708499, 0.9899486783], rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_a_step_is_the_chain_of_the_paper(name):
    """One step is sqrt(1 - beta_t) x + sqrt(beta_t) eps (equation 2), for every t."""
    betas = schedules.SCHEDULES[name](100)
    l_s, l_t = neighbours(name, 100)
    one, zero = np.ones((100, 1)), np.zeros((100, 1))
    kept, added = q_step(one, l_s, l_t, zero), q_step(zero, l_s, l_t, one)
    np.testing.assert_allclose(kept[:, 0], np.sqrt(1 - betas), rtol=1e-11)
    np.testing.assert_allclose(added[:, 0], np.sqrt(betas), rtol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_steps_compose(name):
    """T steps of q(x_t | x_{t-1}) have the mean and the variance of q(x_t | x_0).

    A step is linear: x = 1, eps = 0 gives its factor k on the mean and x = 0, eps = 1
    its noise r, and these are iterated: m' = k m, v' = k^2 v + r^2.
    """
    l_s, l_t = neighbours(name, 100)
    one, zero = np.ones((100, 1)), np.zeros((100, 1))
    kept = np.asarray(q_step(one, l_s, l_t, zero))
    added = np.asarray(q_step(zero, l_s, l_t, one))
    means, stds = q_sample(one, l_t, zero), q_sample(zero, l_t, one)
    mean, variance = 1.0, 0.0
    for i in range(100):
        mean, variance = kept[i] * mean, kept[i] ** 2 * variance + added[i] ** 2
        np.testing.assert_allclose(means[i], mean, rtol=1e-11)
        np.testing.assert_allclose(stds[i] ** 2, variance, rtol=1e-11)


@jax.jit
def both_ways(l_s, l_t, x_0, x_s, x_t):
    """Log of q(x_s, x_t | x_0), factorised forwards and backwards in time."""
    zero = jnp.zeros_like(x_0)

    def log_normal(x, mean, variance):
        return jax.scipy.stats.norm.logpdf(x, mean, jnp.sqrt(variance))

    def marginal(x, logsnr):
        mean = process.q_sample(x_0, logsnr, zero)
        return log_normal(x, mean, process.sigma(logsnr) ** 2)

    mean = process.q_step(x_s, l_s, l_t, zero)
    step = log_normal(x_t, mean, process.step_variance(l_s, l_t))
    mean = process.posterior_mean(x_0, x_t, l_s, l_t)
    posterior = log_normal(x_s, mean, process.posterior_variance(l_s, l_t))
    return marginal(x_s, l_s) + step, marginal(x_t, l_t) + posterior


@pytest.mark.usefixtures("x64")
@hypothesis.given(
    name=st.sampled_from(["linear", "cosine", "const"]),
    times=st.lists(st.integers(1, 1000), min_size=2, max_size=2, unique=True),
    x=st.tuples(*[st.floats(-2, 2)] * 3),
)
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_bayes(name, times, x):
    """q(x_s|x_0) q(x_t|x_s) = q(x_t|x_0) q(x_s|x_t,x_0), for any s < t and any x."""
    s, t = sorted(times)
    logsnr = np.append(np.inf, neighbours(name, 1000)[1])
    forwards, backwards = both_ways(logsnr[s], logsnr[t], *map(np.atleast_1d, x))
    np.testing.assert_allclose(forwards, backwards, rtol=1e-9, atol=1e-9)


@hypothesis.given(logsnr=st.floats(-80, 80))
@hypothesis.settings(max_examples=50, deadline=None)
def test_variance_is_preserved(logsnr):
    """alpha^2 + sigma^2 = 1 and alpha^2 / sigma^2 = exp(logsnr), in float32."""
    alpha, sigma = map(float, (process.alpha(logsnr), process.sigma(logsnr)))
    assert abs(alpha**2 + sigma**2 - 1) < 1e-6
    assert abs(2 * (math.log(alpha) - math.log(sigma)) - logsnr) < 1e-5


def pair(shape=(7, 8), dtype=None, seed=0):
    """Random x_0 in [-1, 1], and noise; dtype None is the default precision."""
    rng = np.random.default_rng(seed)
    x_0, eps = rng.uniform(-1, 1, shape), rng.standard_normal(shape)
    return jnp.asarray(x_0, dtype), jnp.asarray(eps, dtype)


def round_trip(prediction, l_s, l_t, x_0, eps):
    """x_0 -> the network's target -> x_0."""
    x_t = process.q_sample(x_0, l_t, eps)
    target = process.PREDICTIONS[prediction].target(x_0, eps, x_t, l_s, l_t)
    return process.PREDICTIONS[prediction].to_x0(x_t, target, l_s, l_t)


jitted_round_trip = jax.jit(round_trip, static_argnums=0)


def divisor(prediction, l_s, l_t):
    """What to_x0 divides by, and therefore amplifies rounding by."""
    if prediction in ("eps", "score"):
        return np.asarray(process.alpha(l_t))
    if prediction == "mu":
        return np.asarray(all_coefficients(l_s, l_t)[2])
    return 1.0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prediction", process.PREDICTIONS)
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_round_trip_at_every_time(prediction, name):
    """to_x0 inverts target at every t (where needs_signal, except at jsd's T).

    It divides eps and the score by alpha and mu by the weight of x_0, which amplifies
    rounding by 1/weight.
    """
    l_s, l_t = neighbours(name, 1000)
    if process.PREDICTIONS[prediction].needs_signal and name == "jsd":
        l_s[-1], l_t[-1] = l_s[-2], l_t[-2]
    x_0, eps = pair((1000, 3))
    back = jitted_round_trip(prediction, l_s, l_t, x_0, eps)
    error = np.abs(back - x_0).max(1) * divisor(prediction, l_s, l_t)
    assert error.max() < 1e-14


# Log-SNRs (s, t): from clean data (t = 1), both ends of what is used, and within.
BORDERS = [(math.inf, 9.2), (math.inf, 20), (20.5, 20), (9.2, 8.5), (0.1, 0)]
BORDERS += [(-9, -9.2), (-19.5, -20)]


def round_trips(l_s, l_t, x_0, eps):
    """The round trip of every prediction, stacked."""
    rows = [round_trip(name, l_s, l_t, x_0, eps) for name in process.PREDICTIONS]
    return jnp.stack(rows)


class RoundTripTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_borders(self):
        """Round trips in float32, from t = 1 to |logsnr| = 20.

        The tolerance is float32's 2^-24 over the weight that to_x0 divides by.
        """
        l_s, l_t = jnp.array(BORDERS, jnp.float32).T
        x_0, eps = pair()
        back = self.variant(round_trips)(l_s, l_t, x_0, eps)
        for name, row in zip(process.PREDICTIONS, back, strict=True):
            error = np.abs(row - x_0).max(1) * divisor(name, l_s, l_t)
            assert error.max() < 10 * 2**-24, name

    @chex.variants(with_jit=True, without_jit=True)
    def test_finite_in_bfloat16(self):
        """Nothing overflows in bfloat16, from t = 1 to |logsnr| = 20."""
        l_s, l_t = jnp.array(BORDERS, jnp.bfloat16).T
        x_0, eps = pair(dtype=jnp.bfloat16)
        back = self.variant(round_trips)(l_s, l_t, x_0, eps)
        assert back.dtype == jnp.bfloat16
        chex.assert_tree_all_finite(back)


class ShapeTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_scalar_and_per_example(self):
        """A scalar log-SNR equals the same value per example, for data of any rank."""
        l_s, l_t = jnp.float32(1.0), jnp.float32(0.5)
        each = jnp.full(3, l_s), jnp.full(3, l_t)
        pairs = {shape: pair(shape) for shape in ((3,), (3, 2, 4, 1))}

        @self.variant
        def both(l_s, l_t, *each):
            return [
                (round_trips(l_s, l_t, *x), round_trips(*each, *x))
                for x in pairs.values()
            ]

        for shape, (scalar, found) in zip(pairs, both(l_s, l_t, *each), strict=True):
            chex.assert_shape([scalar, found], (len(process.PREDICTIONS), *shape))
            chex.assert_trees_all_close(scalar, found, rtol=1e-6, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_examples_do_not_mix(self):
        """With one log-SNR per example, row i is the result for example i alone."""
        a, b = pair((3, 2, 2))
        l_s, l_t = jnp.array([3.0, 0.5, -1.0]), jnp.array([2.0, 0.0, -4.0])

        def apply(a, b, l_s, l_t):
            return [
                process.q_sample(a, l_t, b),
                process.q_step(a, l_s, l_t, b),
                process.posterior_mean(a, b, l_s, l_t),
            ]

        apply = self.variant(apply)
        together = apply(a, b, l_s, l_t)
        for i in range(3):
            single = apply(a[i : i + 1], b[i : i + 1], l_s[i], l_t[i])
            rows = [x[i : i + 1] for x in together]
            chex.assert_trees_all_close(rows, single, rtol=1e-6)


SIGNAL = np.array([pair for pair in BORDERS if pair[1] > -18])


@pytest.mark.usefixtures("x64")
def test_gain_is_the_slope():
    """gain = |d x_0 / d output|, by jax.grad, from t = 1 to little signal."""

    @jax.jit
    def both(outputs, l_s, l_t):
        def slope(row):
            def x_0(output, l_s, l_t):
                return row.to_x0(jnp.float64(0.7), output, l_s, l_t)

            return jax.vmap(jax.grad(x_0))(outputs, l_s, l_t)

        rows = process.PREDICTIONS.items()
        return {name: (row.gain(l_s, l_t), slope(row)) for name, row in rows}

    l_s, l_t = SIGNAL.T
    for name, (gain, slope) in both(np.full(len(l_s), 0.3), l_s, l_t).items():
        np.testing.assert_allclose(gain, np.abs(slope), rtol=1e-12, err_msg=name)


def test_published_preconditioning():
    """EDM at sigma = sigma_data = 0.5: c_skip, c_out, c_in."""
    actual = process.preconditioning(jnp.float32(-2 * np.log(0.5)))
    np.testing.assert_allclose(actual, [0.5, 0.353553, 1.414214], rtol=2e-6)


@pytest.mark.usefixtures("x64")
def test_preconditioning_keeps_scales():
    """For data with that std, the input and target of EDM's network have variance 1 at
    every level; with sigma_data = 1 the target is -v."""
    logsnr = np.linspace(-20, 20, 41)
    alpha2 = 1 / (1 + np.exp(-logsnr))
    scale = jax.jit(process.PREDICTIONS["edm"].input_scale)(logsnr)
    np.testing.assert_allclose(scale**2 * (alpha2 / 4 + 1 - alpha2), 1, rtol=1e-10)
    x_0, eps = pair((41, 3), jnp.float64)
    rows, each = [], logsnr[:, None]
    for signal, noise in ((0.5, 0.0), (0.0, 1.0)):  # the contributions of x_0 and eps
        parts = jnp.full((41, 1), signal), jnp.full((41, 1), noise)
        x_t = process.q_sample(parts[0], logsnr, parts[1])
        rows.append(process.edm_from_x0(parts[0], x_t, logsnr))
    np.testing.assert_allclose(rows[0] ** 2 + rows[1] ** 2, 1, rtol=1e-8)
    c_skip, c_out, _ = process.preconditioning(each, 1.0)
    x_t = process.q_sample(x_0, logsnr, eps)
    back = c_skip * x_t / process.alpha(each)
    back -= c_out * process.v_from_pair(x_0, eps, logsnr)
    np.testing.assert_allclose(back, x_0, rtol=1e-8, atol=1e-11)


@hypothesis.given(logsnr=st.floats(-10, 10), seed=st.integers(0, 9))
@hypothesis.settings(max_examples=20, deadline=None)
def test_score_is_a_gradient(logsnr, seed):
    """The score is grad log q(x_t | x_0), by jax.grad, and Tweedie's formula inverts
    it to x_0."""
    x_0, eps = pair(seed=seed)
    l_t = jnp.float32(logsnr)
    x_t = q_sample(x_0, l_t, eps)
    score, gradient, back = scores(x_0, x_t, eps, l_t)
    sigma, alpha = float(process.sigma(l_t)), float(process.alpha(l_t))
    np.testing.assert_allclose(score * sigma, gradient * sigma, atol=1e-5 / sigma)
    np.testing.assert_allclose(back, x_0, atol=1e-6 / alpha)


@jax.jit
def scores(x_0, x_t, eps, l_t):
    """The score by its formula and by a gradient; x_0 from the former."""

    def log_q(x):
        mean, std = process.alpha(l_t) * x_0, process.sigma(l_t)
        return jax.scipy.stats.norm.logpdf(x, mean, std).sum()

    score = process.score_from_eps(eps, l_t)
    return score, jax.grad(log_q)(x_t), process.x0_from_score(x_t, score, l_t)


@hypothesis.given(st.floats(-2, 2), st.floats(-20, 0), st.floats(0, 5))
@hypothesis.settings(max_examples=30, deadline=None)
def test_learned_range(value, log_small, width):
    """-1 is the smaller log-variance, 1 the larger, linear in between; "learned" is the
    network's output."""
    ends = log_small, log_small + width
    assert process.learned_range(-1.0, *ends) == ends[0]
    assert process.learned_range(1.0, *ends) == ends[1]
    expected = log_small + (value + 1) / 2 * width
    assert process.learned_range(value, *ends) == pytest.approx(expected, abs=1e-9)
    assert process.LEARNED_VARIANCES["learned"](value, *ends) == value


@hypothesis.given(logsnr=st.floats(-10, 10), seed=st.integers(0, 9))
@hypothesis.settings(max_examples=30, deadline=None)
def test_v_is_a_rotation(logsnr, seed):
    """(x_t, v) is (x_0, eps) rotated by an angle: norms are preserved.

    |x_t|^2 + |v|^2 = |x_0|^2 + |eps|^2, and both follow from (x_t, v).
    """
    x_0, eps = pair(seed=seed)
    x_t, v, x_0_hat, back = rotated(x_0, eps, logsnr)
    np.testing.assert_allclose(x_t**2 + v**2, x_0**2 + eps**2, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(x_0_hat, x_0, atol=1e-6)
    sigma = float(process.sigma(logsnr))
    np.testing.assert_allclose(back, eps, atol=1e-6 / sigma)


@jax.jit
def rotated(x_0, eps, logsnr):
    """x_t and v, and x_0 and eps recovered from them."""
    x_t = process.q_sample(x_0, logsnr, eps)
    v = process.v_from_pair(x_0, eps, logsnr)
    x_0_hat = process.x0_from_v(x_t, v, logsnr)
    return x_t, v, x_0_hat, process.eps_from_x0(x_t, x_0, logsnr)


@pytest.mark.parametrize("prediction", ["x0", "v", "mu"])
@pytest.mark.parametrize("num_timesteps", [1, 2, 1000])
def test_pure_noise(prediction, num_timesteps):
    """If no signal is left (jsd's T), x0, v and mu still determine x_0.

    Including clean data to pure noise in one step (T = 1).
    """
    l_s, l_t = (logsnr[-1] for logsnr in neighbours("jsd", num_timesteps))
    assert l_t == -math.inf
    x_0, eps = pair()
    np.testing.assert_array_equal(process.q_sample(x_0, l_t, eps), eps)
    np.testing.assert_array_equal(process.q_step(x_0, l_s, l_t, eps), eps)
    np.testing.assert_array_equal(process.eps_from_x0(eps, x_0, l_t), eps)
    back = jitted_round_trip(prediction, l_s, l_t, x_0, eps)
    np.testing.assert_allclose(back, x_0, atol=1e-5)


@pytest.mark.parametrize("num_timesteps", LENGTHS)
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_every_coefficient_is_finite(name, num_timesteps):
    """All schedules of all lengths have finite coefficients.

    Variances lie in [0, 1], and beta-tilde never exceeds beta.
    """
    step, small, of_x_0, of_x_t = coefficients(name, num_timesteps)
    for values in (step, small, of_x_0, of_x_t):
        assert np.all(values >= 0) and np.all(values <= 1)
    assert np.all(small <= step * (1 + 1e-6))
    assert small[0] == 0 and of_x_0[0] == 1 and of_x_t[0] == 0

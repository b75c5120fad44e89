"""Laws over the whole table of samplers: their distribution and convergence order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import VARIANTS, denoiser

from diffusion_jax import prng
from diffusion_jax.diffusion import (
    process,
    samplers,
    sampling,
    schedules,
    timesteps,
)
from diffusion_jax.diffusion.denoiser import from_network

ORDERS = {  # of convergence, for samplers that solve the ODE
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "dpmpp_1": 1,
    "dpmpp_2m": 2,
    "dpmpp_3m": 3,
    "dpmpp_2s": 2,
    "dpmpp_3s": 3,
}


def test_every_sampler_is_tested():
    """VARIANTS covers every sampler of the table."""
    assert {name.split()[0] for name in VARIANTS} == set(samplers.SAMPLERS)


def test_table_makes_what_it_says():
    """make builds each row with its options, and rejects options that it lacks."""
    for name, (_, takes) in samplers.SAMPLERS.items():
        for option in ("eta", "churn"):
            samplers.make(name, "fixedsmall", eta=0.0, churn=0.0)
            if option in takes:
                samplers.make(name, "fixedsmall", **{option: 0.25})
            else:
                with pytest.raises(ValueError, match=f"{option} = 0.25.*{name}"):
                    samplers.make(name, "fixedsmall", **{option: 0.25})
    with pytest.raises(ValueError, match="Unknown sample.sampler 'dpm'.*dpmpp_2m"):
        samplers.make("dpm", "fixedsmall")


# A short chain whose timesteps are all visited; its noise level ends at 0.02.
CHAIN = schedules.from_betas(np.linspace(5e-4, 0.1, 200))
COVARIANCE = np.array([[0.25, 0.12], [0.12, 0.16]])
NORMAL = textbook.Mixture.make(  # one normal, written as two equal ones
    [0.5, 0.5], [[0.3, -0.5], [0.3, -0.5]], [COVARIANCE, COVARIANCE]
)
MODES = textbook.Mixture.make(
    [0.3, 0.7],
    [[-1.2, -0.2], [1.0, 0.4]],
    [[[0.07, 0.03], [0.03, 0.09]], [[0.08, -0.03], [-0.03, 0.06]]],
)
NUM_DRAWS, NUM_EACH = 1024, 4


def predictions_of(sampler):
    """x0 and the others; mu is defined only for integer times."""
    others = [
        name
        for name, row in process.PREDICTIONS.items()
        if name != "x0" and not (row.discrete_time and sampler.continuous_time)
    ]
    return {"x0": NUM_DRAWS} | dict.fromkeys(others, NUM_EACH)


def sample(sampler, data, x_T, keys):
    """x_0 of NUM_DRAWS examples by x0, then of NUM_EACH for each other prediction.

    The examples of each prediction start with the x_T and keys of x0's first ones.
    """
    counts = predictions_of(sampler)
    ends = np.cumsum(list(counts.values()))[:-1]
    example = np.concatenate([np.arange(n) for n in counts.values()])

    @denoiser
    def denoise(x_t, t):
        bars = [jax.nn.sigmoid(CHAIN(t - i)) for i in (1, 0)]
        x_0 = data.x_0(x_t, bars[1])

        def predict(prediction, x_t, x_0):
            def network(scaled, t, self_cond):
                if prediction == "edm":  # receives c_in times the noisy data
                    level = jnp.sqrt((1 - bars[1]) / bars[1])
                    c_in = textbook.preconditioning(level)[2]
                    scaled = jnp.sqrt(bars[1]) * scaled / c_in
                return textbook.prediction_of(prediction, scaled, x_0, *bars)

            return from_network(network, prediction, CHAIN)(x_t, t, None).x_0

        return jnp.concatenate(
            list(map(predict, counts, jnp.split(x_t, ends), jnp.split(x_0, ends)))
        )

    steps = np.arange(CHAIN.num_timesteps, 0, -1)
    noise = x_T[example], keys[example]
    return sampling.sample(sampler, denoise, CHAIN, steps, *noise)[0]


@functools.cache
def samples():
    """Samples of both data sets by every sampler, from one compiled program."""
    x_T = np.random.default_rng(1).normal(size=(NUM_DRAWS, 2)).astype(np.float32)

    @jax.jit
    def run(data, keys):
        return {
            name: sample(sampler, data, jnp.asarray(x_T), keys)
            for name, sampler in VARIANTS.items()
        }

    keys = textbook.keys(NUM_DRAWS)
    return [
        jax.device_get(run(jax.tree.map(np.float32, data), keys))
        for data in (NORMAL, MODES)
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_reaches_the_data(name):
    """Every sampler x every prediction reproduces the data's means, covariances and
    weights, for a normal with correlated entries and for two modes.

    Tolerances: 4 standard errors of the draws; plus, for 200 steps, 3 % of a standard
    deviation in the means and 6 % of a variance: order 1 loses about 3 / N of the std
    (published for DDIM: 5.5 % at 50 steps, 0.3 % at 1000), and Langevin steps are too
    few at low noise. The other predictions equal x0 to float32's rounding, 1e-7, which
    mu, with a weight of 5e-4 on x_0, amplifies to 2e-4.
    """
    normal, modes = (by_name[name].astype(np.float64) for by_name in samples())
    for x_0 in (normal, modes):
        others = x_0[NUM_DRAWS:].reshape(-1, NUM_EACH, 2)
        assert len(others) == len(predictions_of(VARIANTS[name])) - 1
        np.testing.assert_allclose(
            others, np.broadcast_to(x_0[:NUM_EACH], others.shape), atol=2e-4
        )
    check_moments(normal[:NUM_DRAWS], [0.3, -0.5], COVARIANCE)
    x_0 = modes[:NUM_DRAWS]
    right = x_0[:, 0] > 0  # the modes are 7 standard deviations apart
    error = 4 * np.sqrt(0.3 * 0.7 / NUM_DRAWS)
    np.testing.assert_allclose(right.mean(), 0.7, atol=error)
    for k, inside in enumerate((~right, right)):
        axes = MODES.axes[k]
        covariance = axes @ np.diag(MODES.variances[k]) @ axes.T
        check_moments(x_0[inside], MODES.means[k], covariance)


def check_moments(x, mean, covariance):
    """Mean and covariance of draws x [N, 2], in units of standard deviations."""
    std = np.sqrt(np.diag(covariance))
    error = 1 / np.sqrt(len(x))
    np.testing.assert_allclose((x.mean(0) - mean) / std, 0, atol=4 * error + 0.03)
    actual = np.cov(x.T) / np.outer(std, std)
    expected = covariance / np.outer(std, std)
    # A sample covariance of unit variates has variance (1 + rho^2) / N, at most 2 / N.
    np.testing.assert_allclose(actual, expected, atol=4 * np.sqrt(2) * error + 0.06)


@functools.cache
def errors():
    """By sampler, the largest error in x_0 for each number of steps."""
    curve = schedules.shifted_cosine(1000, 64)
    data = textbook.Mixture.make([0.4, 0.6], [[-0.6], [0.9]], [[[0.25]], [[0.16]]])

    @denoiser
    def denoise(x_t, t):
        return data.x_0(x_t, jax.nn.sigmoid(curve(t)))

    x_T = jnp.array([[-1.0], [-0.2], [0.5], [1.5]])
    exact_x_1 = data.ode_map(np.asarray(x_T), *map(float, curve(np.array([1000, 1]))))
    keys = textbook.keys(4)

    @jax.jit  # with the number of steps as an argument: compiled once
    def run(steps, num_steps):
        def x_0(sampler):
            def body(i, carry):
                state, x_t, _ = sampler.step(
                    carry[0], keys, denoise, curve, carry[1], steps[i], steps[i + 1]
                )
                return state, x_t

            carry = sampler.init(x_T), x_T
            _, x_1 = jax.lax.fori_loop(0, num_steps - 1, body, carry)
            return denoise(x_1, jnp.asarray(1.0)).x_0

        exact = denoise(jnp.asarray(exact_x_1), jnp.asarray(1.0)).x_0
        return {name: jnp.abs(x_0(VARIANTS[name]) - exact).max() for name in ORDERS}

    def padded(n):
        return np.append(timesteps.make("logsnr", curve, n), np.zeros(NUMBERS[-1] - n))

    by_number = [jax.device_get(run(padded(n), n)) for n in NUMBERS]
    return {name: [found[name] for found in by_number] for name in ORDERS}


NUMBERS = (50, 100, 200)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ORDERS)
def test_order(name):
    """The error with respect to the exact solution of a bimodal ODE falls as
    1 / N^order.

    Steps are even in log-SNR, on a smooth curve (a table is piecewise linear). The
    exact solution is taken at t_1, followed by the same final denoising, which isolates
    the error of the steps.
    """
    slope = -np.polyfit(np.log(NUMBERS), np.log(errors()[name]), 1)[0]
    np.testing.assert_allclose(slope, ORDERS[name], atol=0.15)


@pytest.mark.usefixtures("x64")
def test_published_heun():
    """EDM on N(0, 0.25): Heun with 18 Karras steps from std 80 gives 0.5276246.

    The exact map gives 0.4999902. Both are published values.
    """
    edm = schedules.make("edm", 18)
    denoise = normal_denoiser(edm, 0.5)
    x_T = jnp.array([[80.0], [-80.0]]) * process.alpha(edm(18))
    steps = timesteps.make("trailing", edm, 18)
    x_0, _ = sampling.sample(
        samplers.heun(), denoise, edm, steps, x_T, textbook.keys(2)
    )
    np.testing.assert_allclose(x_0[:, 0], [0.5276246, -0.5276246], atol=5e-8)


def normal_denoiser(schedule, std):
    """E[x_0 | x_t] of data N(0, std^2)."""

    @denoiser
    def denoise(x_t, t):
        alpha_bar = jax.nn.sigmoid(schedule(t))
        variance = alpha_bar * std**2 + 1 - alpha_bar
        return jnp.sqrt(alpha_bar) * std**2 / variance * x_t

    return denoise


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [1.0, 5.5, 17.0, 18.0])
def test_churn_keeps_the_marginal(t):
    """The noise added by churn maps q(x_t) to q(x_u), the marginal at a higher level.

    For data N(0, std^2): gain^2 (alpha_t^2 std^2 + sigma_t^2) + amplitude^2 is the
    variance at u, with level_u = (1 + churn) level_t, limited to the level at T.
    """
    edm, std, churn = schedules.make("edm", 18), 0.5, 0.3
    keys, calls = textbook.keys(1), []

    @denoiser
    def denoise(x_t, t):
        calls.append((float(x_t[0, 0]), float(edm(t))))
        return x_t

    def variance(logsnr):
        alpha_bar = jax.nn.sigmoid(logsnr)
        return alpha_bar * std**2 + 1 - alpha_bar

    for x in (0.0, 1.0):
        x_t = jnp.full((1, 1), x)
        samplers.euler(churn).step((), keys, denoise, edm, x_t, jnp.asarray(t), t - 0.5)
    (at_0, l_u), (at_1, _) = calls
    amplitude = at_0 / prng.normal(keys, (1,))[0, 0]
    raised = edm(t) - 2 * np.log1p(churn)
    np.testing.assert_allclose(l_u, np.maximum(raised, edm(18)), rtol=1e-9)
    actual = (at_1 - at_0) ** 2 * variance(edm(t)) + amplitude**2
    np.testing.assert_allclose(actual, variance(l_u), rtol=1e-9)

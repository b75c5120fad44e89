"""Laws over the whole table of samplers: where they land, and how fast."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import VARIANTS

from diffusion_jax import prng
from diffusion_jax.diffusion import (
    guidance,
    process,
    samplers,
    sampling,
    schedules,
    timesteps,
)

ORDERS = {  # of those that solve the ODE, in the number of steps
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
    """The variants here speak of every sampler that there is."""
    assert {name.split()[0] for name in VARIANTS} == set(samplers.SAMPLERS)


def test_table_makes_what_it_says():
    """make builds each row, with its options, and refuses the options of others."""
    for name, (_, takes) in samplers.SAMPLERS.items():
        for option in ("eta", "churn"):
            samplers.make(name, "fixedsmall", eta=0.0, churn=0.0)
            if option in takes:
                samplers.make(name, "fixedsmall", **{option: 0.25})
            else:
                with pytest.raises(ValueError, match=f"{option} = 0.25.*{name}"):
                    samplers.make(name, "fixedsmall", **{option: 0.25})
    with pytest.raises(ValueError, match="'dpm'.*dpmpp_2m"):
        samplers.make("dpm", "fixedsmall")


# A short chain that all of its times are walked of, 1 to T; its noise falls to 0.02.
CHAIN = schedules.from_betas(np.linspace(5e-4, 0.1, 200))
COVARIANCE = np.array([[0.25, 0.12], [0.12, 0.16]])
NORMAL = textbook.Mixture.make(  # one normal, as two that are the same
    [0.5, 0.5], [[0.3, -0.5], [0.3, -0.5]], [COVARIANCE, COVARIANCE]
)
MODES = textbook.Mixture.make(
    [0.3, 0.7],
    [[-1.2, -0.2], [1.0, 0.4]],
    [[[0.07, 0.03], [0.03, 0.09]], [[0.08, -0.03], [-0.03, 0.06]]],
)
NUM_DRAWS, NUM_EACH = 1024, 4


@functools.partial(jax.jit, static_argnums=0)  # one program for both kinds of data
def walk_of_all_predictions(name, data, x_T, keys):
    """x_0 of NUM_DRAWS examples by x0, then of NUM_EACH for each prediction."""
    sampler = VARIANTS[name]
    parts = {"x0": NUM_DRAWS} | {p: NUM_EACH for p in predictions_of(sampler)}
    ends = np.cumsum(list(parts.values()))[:-1]

    def denoise(x_t, t):
        bars = [jax.nn.sigmoid(CHAIN(t - i)) for i in (1, 0)]
        x_0 = data.x_0(x_t, bars[1])

        def of(prediction, x_t, x_0):
            def network(heard, _):
                if prediction == "edm":  # hears c_in times the data with noise
                    level = jnp.sqrt((1 - bars[1]) / bars[1])
                    c_in = textbook.preconditioning(level)[2]
                    heard = jnp.sqrt(bars[1]) * heard / c_in
                return textbook.prediction_of(prediction, heard, x_0, *bars)

            return guidance.from_network(network, prediction, CHAIN)(x_t, t)

        return jnp.concatenate(
            list(map(of, parts, jnp.split(x_t, ends), jnp.split(x_0, ends)))
        )

    knots = np.arange(CHAIN.num_timesteps, 0, -1)
    return sampling.sample(sampler, denoise, CHAIN, knots, x_T, keys)[0]


def predictions_of(sampler):
    """All but x0; mu speaks of steps to t - 1, and so not of times between."""
    return [
        name
        for name, row in process.PREDICTIONS.items()
        if name != "x0" and not (row.discrete_time and sampler.continuous_time)
    ]


def draw(name, data):
    """Samples [NUM_DRAWS, 2] by x0, and as many as there are by other predictions.

    The examples of each prediction start as the first ones of x0 do, with their keys.
    """
    others = len(predictions_of(VARIANTS[name]))
    example = np.append(np.arange(NUM_DRAWS), np.tile(np.arange(NUM_EACH), others))
    x_T = np.random.default_rng(1).normal(size=(NUM_DRAWS, 2)).astype(np.float32)
    keys = textbook.keys(NUM_DRAWS)
    data = jax.tree.map(np.float32, data)
    x_0 = walk_of_all_predictions(name, data, x_T[example], keys[example])
    x_0 = np.asarray(x_0, np.float64)
    return x_0[:NUM_DRAWS], x_0[NUM_DRAWS:].reshape(others, NUM_EACH, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_reaches_the_data(name):
    """Every sampler x every prediction: the data's means, covariances and weights.

    Of a normal with correlated entries, and of two modes. Tolerances: 4 standard errors
    of so many draws; and for 200 steps 3 % of a standard deviation in the means, 6 % of
    a variance: order 1 leaves out some 3 / N of the std (published for DDIM: 5.5 % of
    50 steps, 0.3 % of 1000), and Langevin steps are too few where noise is small. The
    other predictions walk as x0 does to float32's rounding, 1e-7, which mu, made up of
    x_0 by 5e-4, magnifies to 2e-4.
    """
    for data in (NORMAL, MODES):
        x_0, others = draw(name, data)
        np.testing.assert_allclose(
            others, np.broadcast_to(x_0[:NUM_EACH], others.shape), atol=2e-4
        )
        if data is NORMAL:
            check_moments(x_0, [0.3, -0.5], COVARIANCE)
            continue
        right = x_0[:, 0] > 0  # modes lie 7 standard deviations apart
        error = 4 * np.sqrt(0.3 * 0.7 / NUM_DRAWS)
        np.testing.assert_allclose(right.mean(), 0.7, atol=error)
        for k, inside in enumerate((~right, right)):
            axes = data.axes[k]
            covariance = axes @ np.diag(data.variances[k]) @ axes.T
            check_moments(x_0[inside], data.means[k], covariance)


def check_moments(x, mean, covariance):
    """Mean and covariance of draws x [N, 2], in units of standard deviations."""
    std = np.sqrt(np.diag(covariance))
    error = 1 / np.sqrt(len(x))
    np.testing.assert_allclose((x.mean(0) - mean) / std, 0, atol=4 * error + 0.03)
    actual = np.cov(x.T) / np.outer(std, std)
    expected = covariance / np.outer(std, std)
    # A sample covariance of unit variates has variance (1 + rho^2) / N, at most 2 / N.
    np.testing.assert_allclose(actual, expected, atol=4 * np.sqrt(2) * error + 0.06)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ORDERS)
def test_order(name):
    """The distance to the exact map of a bimodal ODE falls as 1 / N^order.

    Steps are even in log-SNR, on a curve (a table's straight lines have corners). The
    exact map goes to t_1, and then the last denoising is the walk's own, so that what
    is measured is the error of the steps alone.
    """
    curve, sampler = schedules.shifted_cosine(1000, 64), VARIANTS[name]
    data = textbook.Mixture.make([0.4, 0.6], [[-0.6], [0.9]], [[[0.25]], [[0.16]]])

    def denoise(x_t, t):
        return data.x_0(x_t, jax.nn.sigmoid(curve(t)))

    x_T = np.array([[-1.0], [-0.2], [0.5], [1.5]])
    ends = [float(curve(t)) for t in (1000, 1)]
    exact = denoise(jnp.asarray(data.ode_map(x_T, *ends)), jnp.asarray(1.0))

    @jax.jit  # a loop here, so that one program serves every number of steps
    def step(state, x_t, t, s):
        return sampler.step(state, textbook.keys(4), denoise, curve, x_t, t, s)

    numbers, distances = [50, 100, 200], []
    for n in numbers:
        knots = timesteps.make("logsnr", curve, n)
        x_t, state = jnp.asarray(x_T), sampler.init(jnp.asarray(x_T))
        for t, s in zip(knots[:-1], knots[1:], strict=True):
            state, x_t, _ = step(state, x_t, t, s)
        distances.append(np.abs(denoise(x_t, knots[-1]) - exact).max())
    slope = -np.polyfit(np.log(numbers), np.log(distances), 1)[0]
    np.testing.assert_allclose(slope, ORDERS[name], atol=0.15)


@pytest.mark.usefixtures("x64")
def test_published_heun():
    """EDM on N(0, 0.25), Heun with 18 Karras steps from std 80: 0.5276246 comes out.

    The exact map would give 0.4999902. Both are published values.
    """
    edm = schedules.make("edm", 18)
    denoise = normal_denoiser(edm, 0.5)
    x_T = jnp.array([[80.0], [-80.0]]) * process.alpha(edm(18))
    knots = timesteps.make("trailing", edm, 18)
    x_0, _ = sampling.sample(
        samplers.heun(), denoise, edm, knots, x_T, textbook.keys(2)
    )
    np.testing.assert_allclose(x_0[:, 0], [0.5276246, -0.5276246], atol=5e-8)


def normal_denoiser(schedule, std):
    """E[x_0 | x_t] of data N(0, std^2)."""

    def denoise(x_t, t):
        alpha_bar = jax.nn.sigmoid(schedule(t))
        variance = alpha_bar * std**2 + 1 - alpha_bar
        return jnp.sqrt(alpha_bar) * std**2 / variance * x_t

    return denoise


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [1.0, 5.5, 17.0, 18.0])
def test_churn_keeps_the_marginal(t):
    """Noise that churn adds takes q(x_t) to q(x_u), the marginal at the higher level.

    For data N(0, std^2): gain^2 (alpha_t^2 std^2 + sigma_t^2) + amplitude^2 is what
    stands at u, with level_u = (1 + churn) level_t, and at T no higher than that.
    """
    edm, std, churn = schedules.make("edm", 18), 0.5, 0.3
    keys, heard = textbook.keys(1), []

    def denoise(x_t, t):
        heard.append((float(x_t[0, 0]), float(edm(t))))
        return x_t

    def variance(logsnr):
        alpha_bar = jax.nn.sigmoid(logsnr)
        return alpha_bar * std**2 + 1 - alpha_bar

    for x in (0.0, 1.0):
        x_t = jnp.full((1, 1), x)
        samplers.euler(churn).step((), keys, denoise, edm, x_t, jnp.asarray(t), t - 0.5)
    (at_0, l_u), (at_1, _) = heard
    amplitude = at_0 / prng.normal(keys, (1,))[0, 0]
    raised = edm(t) - 2 * np.log1p(churn)
    np.testing.assert_allclose(l_u, np.maximum(raised, edm(18)), rtol=1e-9)
    actual = (at_1 - at_0) ** 2 * variance(edm(t)) + amplitude**2
    np.testing.assert_allclose(actual, variance(l_u), rtol=1e-9)

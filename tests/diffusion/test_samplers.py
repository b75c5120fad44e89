"""Samplers: published values, identities between them, and the walk they share."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import VARIANTS

from diffusion_jax import prng
from diffusion_jax.diffusion import guidance, samplers, sampling, schedules, timesteps

BETAS = np.linspace(1e-4, 0.02, 1000)
LINEAR = schedules.from_betas(BETAS)
CENTRED = textbook.Gaussian(mean=0.0, std=0.5, betas=BETAS)
# Enough for laws of the walk: what draws, what has a memory, and two calls a step.
WALKS = ["ancestral fixedlarge", "ddim", "heun churned", "dpmpp_3m"]


def network(x_t, t):
    """Stands for a network: smooth, and different at each time."""
    return jnp.sin(2 * x_t + t[:, None].astype(x_t.dtype))


def denoise(x_t, t):
    return network(x_t, jnp.broadcast_to(t, x_t.shape[:1]))


def linear_map(sampler, knots, data):
    """The gain (x_t -> x_s) and the noise's amplitude of every step, and the last gain.

    With normal data every step is x_s = gain x_t + amplitude z, so one look at x = 1
    against 0 gives the gain, and one at x = 0, where z is known, the amplitude.
    """
    keys = textbook.keys(1)
    z = prng.normal(keys, (1,))[0, 0]

    def at(t, s):
        def step(x):
            x_t = jnp.full((1, 1), x)
            state = sampler.init(x_t)
            return sampler.step(state, keys, data.denoise, LINEAR, x_t, t, s)[1][0, 0]

        return step(1.0) - step(0.0), step(0.0) / z

    gains, amplitudes = jax.jit(jax.vmap(at))(knots[:-1], knots[1:])
    last = data.denoise(jnp.ones((1, 1)), knots[-1])[0, 0]
    return np.asarray(gains), np.asarray(amplitudes), float(last)


def final_std(sampler, knots, data):
    """Standard deviation of x_0 from x_T ~ N(0, 1), without a draw."""
    gains, amplitudes, last = linear_map(sampler, knots, data)
    variance = 1.0
    for gain, amplitude in zip(gains, amplitudes, strict=True):
        variance = gain**2 * variance + amplitude**2
    return last * np.sqrt(variance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "sampler, num_steps, published",
    [
        ("ancestral fixedsmall", 1000, 0.4961101),
        ("ancestral fixedlarge", 1000, 0.5007515),
        ("ddim", 10, 0.3741285),
        ("ddim", 50, 0.4724391),
        ("ddim", 1000, 0.4984953),
    ],
)
def test_published_spread(sampler, num_steps, published):
    """The exact denoiser of N(0, 0.25), leading spacing: the std that comes out.

    The published values add no noise after the last denoising, as a walk here does not.
    """
    knots = timesteps.make("leading", LINEAR, num_steps)
    actual = final_std(VARIANTS[sampler], knots, CENTRED)
    np.testing.assert_allclose(actual, published, atol=6e-8)


@pytest.mark.usefixtures("x64")
def test_walk_is_its_steps():
    """DDIM's whole walk multiplies x_T by the product of the gains of its steps."""
    knots = timesteps.make("leading", LINEAR, 50)
    x_T = jnp.array([[1.0], [-2.0]])
    x_0, _ = sampling.sample(
        samplers.ddim(), CENTRED.denoise, LINEAR, knots, x_T, textbook.keys(2)
    )
    std = final_std(samplers.ddim(), knots, CENTRED)
    np.testing.assert_allclose(x_0, std * x_T, rtol=1e-12)


@pytest.mark.parametrize("prediction, published", [("eps", 172.0065), ("v", 52.5301)])
def test_published_ramp(prediction, published):
    """Ten steps of DDIM on a ramp, out of a network x t / (t + 1): the sum of |x_0|."""
    ramp = np.arange(768, dtype=np.float32) / 768
    x_T = ramp.reshape(3, 8, 8, 4).transpose(3, 0, 1, 2)

    def network(x_t, t):
        return x_t * (t / (t + 1)).astype(x_t.dtype)[:, None, None, None]

    denoise = guidance.static_thresholding(
        guidance.from_network(network, prediction, LINEAR)
    )
    knots = timesteps.make("leading", LINEAR, 10)
    x_0, _ = sampling.sample(
        samplers.ddim(), denoise, LINEAR, knots, jnp.asarray(x_T), textbook.keys(4)
    )
    np.testing.assert_allclose(np.abs(x_0).sum(), published, atol=3e-4)


@pytest.mark.usefixtures("x64")
@hypothesis.given(
    ends=st.lists(st.integers(1, 1000), min_size=2, max_size=2, unique=True),
    seed=st.integers(0, 2**31),
)
@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_ddim_of_eta_one_is_ancestral(ends, seed):
    """ddim(1) is ancestral sampling with fixedsmall, step for step, noise for noise.

    Song et al. 2021, section 4.1; for any s < t, to float64's rounding.
    """
    s, t = sorted(ends)
    keys = textbook.keys(2, seed)
    x_t = np.random.default_rng(seed).normal(size=(2, 3))
    one, other = eta_one_and_ancestral(keys, x_t, t, s)
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@jax.jit
def eta_one_and_ancestral(keys, x_t, t, s):
    """x_s by the two samplers."""
    return tuple(
        sampler.step((), keys, denoise, LINEAR, x_t, t, s)[1]
        for sampler in (samplers.ddim(1.0), samplers.ancestral("fixedsmall"))
    )


@pytest.mark.usefixtures("x64")
def test_three_names_of_one_step():
    """DPM-Solver++ of order 1, EDM's Euler without churn and ddim(0) are one map.

    Lu et al. 2022, section 4.1; Karras et al. 2022, appendix B; Song et al. 2021, 4.3.
    """
    knots = timesteps.make("trailing", LINEAR, 7)
    x_T = np.random.default_rng(0).normal(size=(2, 3))
    ends = [
        sampling.sample(sampler, denoise, LINEAR, knots, x_T, textbook.keys(2))[0]
        for sampler in (samplers.ddim(), samplers.euler(), samplers.multistep(1))
    ]
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ends[2], ends[0], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("value, fixed", [(-1.0, "fixedsmall"), (1.0, "fixedlarge")])
def test_learned_range_between_the_fixed(value, fixed):
    """learned_range of -1 is fixedsmall, of 1 fixedlarge, at every stride.

    Nichol and Dhariwal 2021, equation 15.
    """

    def both(x_t, t):
        return denoise(x_t, t), jnp.full_like(x_t, value)

    knots, keys = np.array([1000, 999, 400, 37, 2, 1]), textbook.keys(2)
    x_T = np.random.default_rng(0).normal(size=(2, 3))
    learned, _ = sampling.sample(
        samplers.ancestral("learned_range"), both, LINEAR, knots, x_T, keys
    )
    expected, _ = sampling.sample(
        samplers.ancestral(fixed), denoise, LINEAR, knots, x_T, keys
    )
    np.testing.assert_allclose(learned, expected, rtol=0, atol=1e-9)


def test_self_conditioning():
    """A denoiser is told x_0 as it was predicted the step before, and first 0.

    With one that adds 1 to what it is told, step i predicts i: 1, 2, ..., N.
    """
    x_0, frames = sampling.sample(
        samplers.ddim(),
        lambda x_t, t, before: before + 1,
        LINEAR,
        KNOTS,
        X_T,
        textbook.keys(3),
        num_frames=6,
        self_condition=True,
    )
    np.testing.assert_array_equal(frames[0, :, 0], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(x_0, frames[:, -1])


@functools.partial(jax.jit, static_argnums=(0, 4))  # for speed: tests share it
def sample(name, knots, x_T, keys, num_frames=0):
    return sampling.sample(
        VARIANTS[name], denoise, LINEAR, knots, x_T, keys, num_frames
    )


def loop(sampler, knots, x_T, keys):
    """The walk as a plain loop: all predictions of x_0, first to last."""

    @jax.jit
    def step(state, x_t, i, t, s):
        noise_keys = jnp.stack([jax.random.fold_in(keys[j], i) for j in range(3)])
        return sampler.step(state, noise_keys, denoise, LINEAR, x_t, t, s)

    state, x_t, seen = sampler.init(x_T), x_T, []
    for i, (t, s) in enumerate(zip(knots[:-1], knots[1:], strict=True)):
        state, x_t, x_0 = step(state, x_t, i + 1, t, s)
        seen.append(x_0)
    return [*seen, denoise(x_t, jnp.asarray(knots[-1]))]


X_T = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
KNOTS = timesteps.make("leading", LINEAR, 6)


@pytest.mark.parametrize("name", WALKS)
def test_scan_is_a_loop(name):
    """The scan on the device visits what a plain loop visits; k frames are k of these.

    Frame j of k is the prediction after (j + 1) / k of the N steps, the last one x_0.
    """
    keys = textbook.keys(3)
    seen = loop(VARIANTS[name], KNOTS, X_T, keys)
    for k in (0, 1, 4, 6) if name == "ddim" else (4,):
        x_0, frames = sample(name, KNOTS, X_T, keys, k)
        chex.assert_shape(frames, (3, k, 4))
        np.testing.assert_allclose(x_0, seen[-1], atol=1e-5)
        for j in range(k):
            expected = seen[int(np.ceil((j + 1) * 6 / k)) - 1]
            np.testing.assert_allclose(frames[:, j], expected, atol=1e-5)
        if k:
            np.testing.assert_array_equal(frames[:, -1], x_0)


@pytest.mark.parametrize("name", WALKS)
def test_examples_do_not_mix(name):
    """Sample i is the same whichever others are drawn beside it."""
    keys = textbook.keys(3)
    order = np.array([2, 0, 0])
    together = sample(name, KNOTS, X_T, keys, 4)
    apart = sample(name, KNOTS, X_T[order], keys[order], 4)
    for one, other in zip(apart, together):
        np.testing.assert_allclose(one, other[order], atol=1e-5)


class WalkTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_one_knot_is_a_plain_denoising(self):
        """A walk of one time is the denoiser at that time: no step, no noise."""

        @self.variant
        def sample(x_T, keys):
            knots = np.array([700])
            return [
                sampling.sample(sampler, denoise, LINEAR, knots, x_T, keys, 1)
                for sampler in (VARIANTS[name] for name in WALKS)
            ]

        expected = denoise(X_T, jnp.asarray(700))
        for x_0, frames in sample(X_T, textbook.keys(3)):
            np.testing.assert_allclose(x_0, expected, atol=1e-6)
            np.testing.assert_array_equal(frames[:, 0], x_0)


def test_noise_is_each_example_own():
    """Noise is standard normal, and an example's is its key's alone."""
    keys = textbook.keys(64)
    draw = jax.jit(prng.normal, static_argnums=1)
    noise = np.asarray(draw(keys, (8, 8)))
    chex.assert_shape(noise, (64, 8, 8))
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    np.testing.assert_array_equal(draw(keys[::-1], (8, 8)), noise[::-1])
    # Neighbours are strangers: no correlation beyond chance.
    correlations = np.corrcoef(noise.reshape(64, 64))[np.triu_indices(64, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(64)


@pytest.mark.parametrize("name", ["ancestral fixedlarge", "ddim"])
def test_no_retrace(name):
    """Other noise, other keys and as many other knots compile nothing new."""
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(knots, x_T, keys):
        return sampling.sample(VARIANTS[name], denoise, LINEAR, knots, x_T, keys)[0]

    for seed, spacing in enumerate(("leading", "trailing", "quadratic")):
        knots = timesteps.make(spacing, LINEAR, 10)
        sample(knots, X_T + seed, textbook.keys(3, seed))


@pytest.mark.parametrize("num_knots", [1, 7])
def test_calls_of_the_network(num_knots):
    """N knots call the network N times, at the knots, in order."""
    knots, seen = timesteps.make("leading", LINEAR, num_knots), []

    def denoise(x_t, t):
        jax.debug.callback(lambda t: seen.append(int(t)), t, ordered=True)
        return x_t

    x_0, _ = sampling.sample(
        samplers.ddim(), denoise, LINEAR, knots, X_T, textbook.keys(3)
    )
    jax.block_until_ready(x_0)
    jax.effects_barrier()
    assert seen == knots.tolist()


@pytest.mark.parametrize("name", WALKS)
def test_a_perfect_denoiser_is_believed(name):
    """A denoiser that always says the same picture gets that picture: x_0 = x_0_hat."""
    picture = jnp.asarray([[0.3, -0.2, 1.0, -1.0]])
    knots = timesteps.make("trailing", LINEAR, 5)
    x_0, frames = sampling.sample(
        VARIANTS[name],
        lambda x_t, t: jnp.broadcast_to(picture, x_t.shape),
        LINEAR,
        knots,
        X_T,
        textbook.keys(3),
        num_frames=5,
    )
    expected = jnp.broadcast_to(picture[:, None], frames.shape)
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(x_0, expected[:, -1])


def test_refusals():
    """More frames than steps, unknown variances, impossible etas: refused in words."""
    knots = timesteps.make("leading", LINEAR, 3)
    with pytest.raises(ValueError, match="at most 3 frames, not 4"):
        sampling.sample(
            samplers.ddim(), denoise, LINEAR, knots, X_T, textbook.keys(3), num_frames=4
        )
    with pytest.raises(ValueError, match="'large'.*fixedsmall.*fixedlarge"):
        samplers.ancestral("large")
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="eta"):
            samplers.ddim(eta)

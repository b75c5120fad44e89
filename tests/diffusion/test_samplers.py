"""Samplers: published values, identities between them, and the sampling loop."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import VARIANTS, denoiser

from diffusion_jax import prng
from diffusion_jax.diffusion import guidance, samplers, sampling, schedules, timesteps
from diffusion_jax.diffusion.denoiser import Denoised, from_network

BETAS = np.linspace(1e-4, 0.02, 1000)
LINEAR = schedules.from_betas(BETAS)
CENTRED = textbook.Gaussian(mean=0.0, std=0.5, betas=BETAS)
# Enough for laws of the loop: a stochastic one, one with a state, two calls per step.
LOOPED = ["ancestral fixedlarge", "ddim", "heun churned", "dpmpp_3m"]
X_T = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
STEPS = timesteps.make("leading", LINEAR, 6)


@denoiser
def denoise(x_t, t):
    """A stand-in for a network: smooth, and different at each time."""
    return jnp.sin(2 * x_t + jnp.asarray(t).astype(x_t.dtype))


# Published values.

SPREADS = [
    ("ancestral fixedsmall", 1000, 0.4961101),
    ("ancestral fixedlarge", 1000, 0.5007515),
    ("ddim", 10, 0.3741285),
    ("ddim", 50, 0.4724391),
    ("ddim", 1000, 0.4984953),
]


def final_std(name, steps):
    """Standard deviation of x_0 from x_T ~ N(0, 1), without sampling.

    With normal data every step is x_s = gain x_t + amplitude z: the difference between
    x = 1 and x = 0 is the gain, and the result of x = 0, where z is known, gives the
    amplitude.
    """
    sampler, keys = VARIANTS[name], textbook.keys(1)
    z = prng.normal(keys, (1,))[0, 0]

    def at(t, s):
        def step(x):
            x_t = jnp.full((1, 1), x)
            arguments = sampler.init(x_t), keys, denoiser(CENTRED.denoise), LINEAR
            return sampler.step(*arguments, x_t, t, s)[1][0, 0]

        return step(1.0) - step(0.0), step(0.0) / z

    def add(variance, gain_amplitude):
        gain, amplitude = gain_amplitude
        return gain**2 * variance + amplitude**2, None

    steps = jnp.asarray(steps)
    variance, _ = jax.lax.scan(add, 1.0, jax.vmap(at)(steps[:-1], steps[1:]))
    return CENTRED.denoise(jnp.ones((1, 1)), steps[-1])[0, 0] * jnp.sqrt(variance)


@pytest.mark.usefixtures("x64")
def test_published_spread():
    """The exact denoiser of N(0, 0.25), leading spacing, gives the published stds.

    They have no noise after the last denoising, as in the sampling loop. And DDIM's
    whole loop multiplies x_T by the product of its steps' gains.
    """
    x_T = np.array([[1.0], [-2.0]])

    @jax.jit
    def run(keys):
        spaced = {n: timesteps.make("leading", LINEAR, n) for n in (10, 50, 1000)}
        stds = [final_std(name, spaced[n]) for name, n, _ in SPREADS]
        exact = denoiser(CENTRED.denoise)
        arguments = exact, LINEAR, spaced[50], jnp.asarray(x_T), keys
        return jnp.stack(stds), sampling.sample(samplers.ddim(), *arguments)[0]

    stds, x_0 = run(textbook.keys(2))
    np.testing.assert_allclose(stds, [row[2] for row in SPREADS], atol=6e-8)
    np.testing.assert_allclose(x_0, stds[3] * x_T, rtol=1e-12)


def test_published_ramp():
    """Ten DDIM steps from a ramp, with a network x t / (t + 1): the sum of |x_0|."""
    ramp = np.arange(768, dtype=np.float32) / 768
    x_T = ramp.reshape(3, 8, 8, 4).transpose(3, 0, 1, 2)
    steps = timesteps.make("leading", LINEAR, 10)

    def network(x_t, t, self_cond):
        return x_t * (t / (t + 1)).astype(x_t.dtype)[:, None, None, None]

    @jax.jit
    def x_0(x_T, keys):
        return [
            sampling.sample(
                samplers.ddim(),
                guidance.static_thresholding(from_network(network, name, LINEAR)),
                LINEAR,
                steps,
                x_T,
                keys,
            )[0]
            for name in ("eps", "v")
        ]

    sums = [np.abs(x).sum() for x in x_0(x_T, textbook.keys(4))]
    np.testing.assert_allclose(sums, [172.0065, 52.5301], atol=3e-4)


# Identities.


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
    x_s, expected = eta_one_and_ancestral(keys, x_t, t, s)
    np.testing.assert_allclose(x_s, expected, rtol=1e-11, atol=1e-11)


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
    steps = timesteps.make("trailing", LINEAR, 7)

    @jax.jit
    def x_0(x_T, keys):
        return [
            sampling.sample(sampler, denoise, LINEAR, steps, x_T, keys)[0]
            for sampler in (samplers.ddim(), samplers.euler(), samplers.multistep(1))
        ]

    x_T = np.random.default_rng(0).normal(size=(2, 3))
    expected, *others = x_0(x_T, textbook.keys(2))
    for other in others:
        np.testing.assert_allclose(other, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_learned_range_between_the_fixed():
    """learned_range of -1 is fixedsmall, of 1 fixedlarge, at every stride.

    Nichol and Dhariwal 2021, equation 15.
    """
    steps = np.array([1000, 999, 400, 37, 2, 1])

    @jax.jit
    def both(x_T, keys):
        def run(variance, value=None):
            def with_values(x_t, t, self_cond):
                values = None if value is None else jnp.full_like(x_t, value)
                return Denoised(denoise(x_t, t).x_0, values)

            sampler = samplers.ancestral(variance)
            return sampling.sample(sampler, with_values, LINEAR, steps, x_T, keys)[0]

        return [
            (run("learned_range", value), run(fixed))
            for value, fixed in ((-1.0, "fixedsmall"), (1.0, "fixedlarge"))
        ]

    x_T = np.random.default_rng(0).normal(size=(2, 3))
    for learned, fixed in both(x_T, textbook.keys(2)):
        np.testing.assert_allclose(learned, fixed, rtol=0, atol=1e-9)


# The loop.


def test_self_conditioning():
    """A denoiser receives the previous step's x_0, zeros first, and None without
    self-conditioning.

    With one that adds 1 to what it receives, step i predicts i: 1, 2, ..., N.
    """

    def count(x_t, t, self_cond):
        return Denoised(jnp.zeros_like(x_t) if self_cond is None else self_cond + 1)

    @jax.jit
    def run(keys):
        arguments = samplers.ddim(), count, LINEAR, STEPS, X_T, keys
        return [
            sampling.sample(*arguments, num_frames=6, self_condition=condition)
            for condition in (True, False)
        ]

    (x_0, frames), (plain, _) = run(textbook.keys(3))
    np.testing.assert_array_equal(frames[0, :, 0], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(x_0, frames[:, -1])
    np.testing.assert_array_equal(plain, 0)


@jax.jit  # tests share it
def sample(x_T, keys):
    """x_0 and frames by sampler and number of frames."""
    numbers = [(name, 4) for name in LOOPED] + [("ddim", k) for k in (0, 1, 6)]
    return {
        f"{name} {k}": sampling.sample(
            VARIANTS[name], denoise, LINEAR, STEPS, x_T, keys, k
        )
        for name, k in numbers
    }


def loop(steps, x_T, keys):
    """The sampling loop in plain Python: by sampler, all predictions of x_0."""

    @jax.jit
    def step(states, i, t, s):
        noise_keys = jnp.stack([jax.random.fold_in(keys[j], i) for j in range(3)])
        return {
            name: VARIANTS[name].step(state, noise_keys, denoise, LINEAR, x_t, t, s)
            for name, (state, x_t, _) in states.items()
        }

    states = {name: (VARIANTS[name].init(x_T), x_T, None) for name in LOOPED}
    predictions = {name: [] for name in LOOPED}
    for i, (t, s) in enumerate(zip(steps[:-1], steps[1:], strict=True)):
        states = step(states, i + 1, t, s)
        for name, (_, _, x_0) in states.items():
            predictions[name].append(x_0)
    for name, (_, x_1, _) in states.items():
        predictions[name].append(denoise(x_1, steps[-1]).x_0)
    return predictions


@pytest.mark.usefixtures("x64")
def test_scan_is_a_loop():
    """The scan on the device equals a plain Python loop, and k frames are k of its
    predictions.

    Frame j of k is the prediction after (j + 1) / k of the N steps, the last one x_0.
    In float64: at t = 800, sin(2 x + t) turns one rounding of float32 into 1e-3.
    """
    keys, x_T = textbook.keys(3), X_T.astype(jnp.float64)
    predictions = loop(STEPS, x_T, keys)
    for key, (x_0, frames) in sample(x_T, keys).items():
        name, k = key[:-2], int(key[-1])
        chex.assert_shape(frames, (3, k, 4))
        np.testing.assert_allclose(x_0, predictions[name][-1], rtol=0, atol=1e-12)
        for j in range(k):
            expected = predictions[name][int(np.ceil((j + 1) * 6 / k)) - 1]
            np.testing.assert_allclose(frames[:, j], expected, rtol=0, atol=1e-12)
        if k:
            np.testing.assert_array_equal(frames[:, -1], x_0)


def test_examples_do_not_mix():
    """Sample i does not depend on the other samples of its batch."""
    keys = textbook.keys(3)
    order = np.array([2, 0, 0])
    together, permuted = sample(X_T, keys), sample(X_T[order], keys[order])
    for one, other in zip(
        jax.tree.leaves(permuted), jax.tree.leaves(together), strict=True
    ):
        np.testing.assert_allclose(one, other[order], atol=1e-5)


SHAPES = [(12,), (6, 2), (2, 3, 2)]  # points, signals, non-square images


def test_data_of_any_rank():
    """Samplers work on data of any shape: reshaping x_T reshapes x_0.

    The denoiser is elementwise, and threefry draws the same numbers for every shape.
    """
    x_T = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    threshold = guidance.dynamic_thresholding(denoise)

    @jax.jit
    def run(keys):
        return {
            name: [
                sampling.sample(
                    VARIANTS[name],
                    threshold,
                    LINEAR,
                    STEPS[-3:],
                    jnp.asarray(x_T.reshape(3, *shape)),
                    keys,
                    num_frames=1,
                )[1]
                for shape in SHAPES
            ]
            for name in ("ancestral fixedlarge", "dpmpp_3m")
        }

    for by_shape in run(textbook.keys(3)).values():
        for shape, frames in zip(SHAPES, by_shape, strict=True):
            chex.assert_shape(frames, (3, 1, *shape))
            flat = np.reshape(frames, (3, 1, 12))
            np.testing.assert_allclose(flat, by_shape[0], atol=1e-5)


class LoopTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_one_timestep_is_a_plain_denoising(self):
        """A loop over one timestep is the denoiser at that time: no step, no noise."""

        @self.variant
        def sample(x_T, keys):
            steps = np.array([700])
            return [
                sampling.sample(VARIANTS[name], denoise, LINEAR, steps, x_T, keys, 1)
                for name in LOOPED
            ]

        expected = denoise(X_T, 700).x_0
        for x_0, frames in sample(X_T, textbook.keys(3)):
            np.testing.assert_allclose(x_0, expected, atol=1e-6)
            np.testing.assert_array_equal(frames[:, 0], x_0)


def test_noise_is_each_examples_own():
    """Noise is standard normal, and an example's noise depends only on its key."""
    keys = textbook.keys(64)
    draw = jax.jit(prng.normal, static_argnums=1)
    noise = np.asarray(draw(keys, (8, 8)))
    chex.assert_shape(noise, (64, 8, 8))
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    np.testing.assert_array_equal(draw(keys[::-1], (8, 8)), noise[::-1])
    # Examples are uncorrelated beyond chance.
    correlations = np.corrcoef(noise.reshape(64, 64))[np.triu_indices(64, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(64)


def test_no_retrace():
    """Other noise, keys and timesteps (of the same number) compile nothing new."""
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(steps, x_T, keys):
        return [
            sampling.sample(VARIANTS[name], denoise, LINEAR, steps, x_T, keys)[0]
            for name in ("ancestral fixedlarge", "ddim")
        ]

    for seed, spacing in enumerate(("leading", "trailing", "quadratic")):
        steps = timesteps.make(spacing, LINEAR, 10)
        sample(steps, X_T + seed, textbook.keys(3, seed))


@pytest.mark.parametrize("num_steps", [1, 7])
def test_calls_of_the_network(num_steps):
    """N timesteps call the network N times, at these times, in order."""
    steps, calls = timesteps.make("leading", LINEAR, num_steps), []

    @denoiser
    def denoise(x_t, t):
        jax.debug.callback(lambda t: calls.append(int(t)), t, ordered=True)
        return x_t

    x_0, _ = sampling.sample(
        samplers.ddim(), denoise, LINEAR, steps, X_T, textbook.keys(3)
    )
    jax.block_until_ready(x_0)
    jax.effects_barrier()
    assert calls == steps.tolist()


def test_a_constant_denoiser_is_returned():
    """A denoiser that always predicts the same image gives that image."""
    image = np.float32([[0.3, -0.2, 1.0, -1.0]])
    steps = timesteps.make("trailing", LINEAR, 5)
    constant = denoiser(lambda x_t, t: jnp.broadcast_to(image, x_t.shape))

    @jax.jit
    def sample(keys):
        return [
            sampling.sample(VARIANTS[name], constant, LINEAR, steps, X_T, keys, 5)
            for name in LOOPED
        ]

    for x_0, frames in sample(textbook.keys(3)):
        expected = np.broadcast_to(image[:, None], frames.shape)
        np.testing.assert_array_equal(frames, expected)
        np.testing.assert_array_equal(x_0, expected[:, -1])


def test_errors():
    """More frames than timesteps, unknown variances and invalid etas raise errors."""
    arguments = samplers.ddim(), denoise, LINEAR, STEPS[:3], X_T, textbook.keys(3)
    with pytest.raises(ValueError, match="num_frames = 4.*at most 3 frames"):
        sampling.sample(*arguments, num_frames=4)
    known = "fixedsmall, fixedlarge, learned, learned_range"
    with pytest.raises(
        ValueError, match=f"Unknown diffusion.variance 'large'. Known: {known}"
    ):
        samplers.ancestral("large")
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="sample.eta"):
            samplers.ddim(eta)

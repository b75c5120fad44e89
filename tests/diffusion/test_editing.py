"""Laws of editing: encoding, interpolation, img2img and inpainting."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from variants import denoiser

from diffusion_jax.diffusion import editing, samplers, sampling, schedules, timesteps
from diffusion_jax.diffusion.denoiser import Denoised

BETAS = np.linspace(1e-4, 0.02, 1000)
LINEAR = schedules.from_betas(BETAS)
DATA = textbook.Gaussian(mean=0.3, std=0.5, betas=BETAS)
DENOISE = denoiser(DATA.denoise)
DDIM = samplers.ddim()
X = np.random.default_rng(0).normal(size=(3, 2, 2, 1))
OTHER = np.random.default_rng(1).normal(size=(3, 2, 2, 1))
# Four values, neighbours correlated 0.8.
COVARIANCE = 0.8 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
VALUES, VECTORS = np.linalg.eigh(COVARIANCE)
MASK = jnp.asarray([True, False, False, True])


@denoiser
def correlated(x_t, t):
    """E[x_0 | x_t] of N(0, COVARIANCE): alpha C (alpha^2 C + sigma^2 I)^-1 x_t."""
    alpha2 = jax.nn.sigmoid(LINEAR(t))
    gain = jnp.sqrt(alpha2) * VALUES / (alpha2 * VALUES + 1 - alpha2)
    vectors = jnp.asarray(VECTORS, x_t.dtype)
    return (x_t @ vectors * gain.astype(x_t.dtype)[None]) @ vectors.T


# Arcs.


class SlerpTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_arc(self):
        """Between vectors of equal norm the norm is constant and the angle to the first
        one is linear in the weight; the ends are exact, bit for bit."""

        @self.variant
        def slerp(a, b, weights):
            return [editing.slerp(a, b, weight) for weight in weights]

        a, b = (jnp.asarray(x, jnp.float32) for x in (X, OTHER))
        flat = [np.asarray(x).reshape(3, -1) for x in (a, b)]
        length = [np.linalg.norm(x, axis=1) for x in flat]
        b = b * (length[0] / length[1])[:, None, None, None]
        whole = np.arccos(np.sum(flat[0] * flat[1], axis=1) / (length[0] * length[1]))
        weights = 0.25, 0.5, 0.9
        *arcs, start, end = slerp(a, b, (*weights, 0.0, 1.0))
        for weight, c in zip(weights, arcs, strict=True):
            c = np.asarray(c).reshape(3, -1)
            np.testing.assert_allclose(np.linalg.norm(c, axis=1), length[0], rtol=1e-5)
            angle = np.arccos(np.sum(c * flat[0], axis=1) / length[0] ** 2)
            np.testing.assert_allclose(angle, weight * whole, rtol=1e-4)
        np.testing.assert_array_equal(start, a)
        np.testing.assert_array_equal(end, b)
        (each,) = slerp(a, b, (jnp.array([0.0, 1.0, 1.0]),))
        np.testing.assert_array_equal(each[1:], b[1:])


def test_slerp_without_an_arc():
    """Parallel and opposite vectors have no arc: they are interpolated linearly."""
    slerp = jax.jit(editing.slerp)
    a = jnp.asarray(X, jnp.float32)
    for b in (a, 2 * a, -a, a * (1 + 1e-7)):
        mixed = slerp(a, b, 0.25)
        np.testing.assert_allclose(mixed, 0.75 * a + 0.25 * b, atol=1e-6)


# Encoding.


@pytest.mark.usefixtures("x64")
def test_encoding_is_the_ode_backwards():
    """With the exact denoiser of normal data, encoding approaches the inverse of the
    exact ODE map, and decoding inverts it; both errors fall as 1 / N."""

    @jax.jit
    def there_and_back(steps, x_0):
        x_T = editing.encode(DENOISE, LINEAR, steps, x_0)
        keys = textbook.keys(3)
        return x_T, sampling.sample(DDIM, DENOISE, LINEAR, steps, x_T, keys)[0]

    at_0, at_1 = DATA.ode_map(0.0), DATA.ode_map(1.0)  # the map is affine
    x_0 = 0.3 + 0.5 * X
    exact = (x_0 - at_0) / (at_1 - at_0)
    numbers, errors = np.array([100, 1000]), []
    for n in numbers:
        x_T, back = there_and_back(timesteps.make("trailing", LINEAR, n), x_0)
        errors.append([np.abs(x_T - exact).max(), np.abs(back - x_0).max()])
    slopes = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    np.testing.assert_allclose(slopes, 1, atol=0.15)
    assert np.max(errors[-1]) < 0.01


@pytest.mark.usefixtures("x64")
def test_two_steps_of_encoding_by_hand():
    """The first step is alpha x_0 + sigma eps_hat(alpha x_0), the next one is DDIM's,
    with eps_hat(x) = (x - alpha x_0_hat(x)) / sigma."""
    bars = textbook.table(BETAS).alpha_bar[[299, 899]]
    (a_s, a_t), (b_s, b_t) = np.sqrt(bars), np.sqrt(1 - bars)
    seen = a_s * X
    x_s = a_s * X + seen - a_s * DATA.x_0(seen, bars[0])
    x_0_hat = DATA.x_0(x_s, bars[0])
    x_t = a_t * x_0_hat + b_t * (x_s - a_s * x_0_hat) / b_s
    encode = jax.jit(lambda x: editing.encode(DENOISE, LINEAR, [900, 300], x))
    np.testing.assert_allclose(encode(X), x_t, rtol=1e-10)


# img2img and interpolation.


@functools.partial(jax.jit, static_argnums=0)
def img2img(last, x_0, keys):
    steps = np.unique(np.linspace(1, last, 60).astype(int))[::-1]
    return editing.img2img(ANCESTRAL, DENOISE, LINEAR, steps, x_0, keys)


def test_img2img_forgets_with_time():
    """From time 1 the result is the image up to noise of std 0.01; from T two images
    with equal noise become equal up to alpha_T = 0.006 of their difference."""
    keys, x_0 = textbook.keys(3), jnp.asarray(X, jnp.float32)
    near = img2img(1, x_0, keys)
    np.testing.assert_allclose(near, x_0, atol=5 * 0.01)
    assert np.abs(near - x_0).max() > 1e-4
    far = img2img(1000, x_0, keys)
    other = img2img(1000, jnp.asarray(OTHER, jnp.float32), keys)
    assert np.abs(far - other).max() < 0.0064 * np.abs(X - OTHER).max()
    assert np.abs(far - x_0).max() > 0.1


def test_img2img_keeps_the_distribution():
    """The data distribution is preserved: mean and std to 4 standard errors.

    The error of 60 steps, and of no noise in the last one, is below 3 % of the std
    (fixedsmall at 1000 steps: 0.4961 of 0.5).
    """
    x_0 = jnp.asarray(0.3 + 0.5 * np.random.default_rng(0).normal(size=(64, 64)))
    out = np.asarray(img2img(400, x_0.astype(jnp.float32), textbook.keys(64)))
    np.testing.assert_allclose(out.mean(), 0.3, atol=4 * 0.5 / 64)
    np.testing.assert_allclose(out.std(), 0.5, rtol=4 * 0.011 + 0.03)


STEPS = timesteps.make("leading", LINEAR, 8)[2:]  # from time 626


def test_interpolation():
    """The ends are the images after img2img with that noise; in between, sampling that
    is linear in x_t (a normal's denoiser) gives the linear interpolation of the ends.
    """

    @jax.jit
    def run(a, b, weights, keys):
        sampler = samplers.ancestral("fixedlarge")
        rest = sampler, DENOISE, LINEAR, STEPS
        ends = [editing.img2img(*rest, x, keys) for x in (a, b)]
        return ends, jax.lax.map(
            lambda weight: editing.interpolate(*rest, a, b, weight, keys), weights
        )

    a, b = (jnp.asarray(x, jnp.float32) for x in (X, OTHER))
    weights = np.float32([0.0, 1.0, 0.25])
    each = jnp.tile(weights[:, None], (1, 3))  # a weight per example
    ends, mixed = run(a, b, each, textbook.keys(3))
    expected = [(1 - w) * ends[0] + w * ends[1] for w in weights]
    np.testing.assert_allclose(mixed, expected, atol=2e-6)


def test_the_noise_is_shared():
    """Both ends share their noise: the interpolated noise has the amplitude sigma, not
    sigma sqrt(w^2 + (1 - w)^2)."""
    calls = []

    @denoiser
    def denoise(x_t, t):
        jax.debug.callback(lambda x: calls.append(np.asarray(x)), x_t)
        return x_t

    n, steps = 64, np.array([600])
    zeros = jnp.zeros((n, 64))
    editing.interpolate(
        DDIM, denoise, LINEAR, steps, zeros, zeros, 0.5, textbook.keys(n)
    ).block_until_ready()
    jax.effects_barrier()
    sigma = np.sqrt(1 - textbook.table(BETAS).alpha_bar[599])
    np.testing.assert_allclose(calls[0].std(), sigma, rtol=4 / np.sqrt(2 * 64 * n))


# Inpainting.


def inpaint(name, x_0, keys, num_resamplings, num_frames=0, steps=STEPS):
    sampler = samplers.make(name, "fixedsmall")
    rest = steps, x_0, MASK[None], keys, num_resamplings, num_frames
    return editing.inpaint(sampler, correlated, LINEAR, *rest)


@jax.jit  # tests share it
def inpaint_all(x_0, keys):
    """x_0 and 6 frames by sampler."""
    names = "ancestral", "dpmpp_2m", "heun"
    return {name: inpaint(name, x_0, keys, 2, 6) for name in names}


def test_known_entries_are_kept():
    """Known entries are returned bit for bit, in every frame; the input's unknown
    entries do not influence the result, and are replaced."""
    x_0 = jnp.asarray(X.reshape(3, 4), jnp.float32)
    keys = textbook.keys(3)
    again = inpaint_all(jnp.where(MASK, x_0, 7.0), keys)
    for name, (filled, frames) in inpaint_all(x_0, keys).items():
        np.testing.assert_array_equal(filled[:, MASK], x_0[:, MASK])
        for frame in np.moveaxis(np.asarray(frames), 1, 0):
            np.testing.assert_array_equal(frame[:, MASK], x_0[:, MASK])
        assert np.all(np.abs(filled - x_0)[:, ~MASK] > 1e-4)
        np.testing.assert_array_equal(again[name][0], filled)


def test_known_denoisers():
    """Known entries replace only x_0: model_var_values are kept, and the denoiser
    receives self_cond."""

    def denoise(x_t, t, self_cond):
        return Denoised(x_t + self_cond, 7 * x_t)

    x_0, ones = jnp.arange(8.0).reshape(2, 4), jnp.ones((2, 4))
    actual = editing.known(denoise, x_0, MASK[None])(ones, 5, 2 * ones)
    np.testing.assert_array_equal(actual.x_0, np.where(MASK, x_0, 3.0))
    np.testing.assert_array_equal(actual.model_var_values, 7 * ones)


def test_examples_do_not_mix():
    """The result of example i does not depend on the rest of its batch."""
    x_0, keys = jnp.asarray(X.reshape(3, 4), jnp.float32), textbook.keys(3)
    order = np.array([2, 0, 0])
    together, permuted = (
        inpaint_all(*arguments)["ancestral"][0]
        for arguments in ((x_0, keys), (x_0[order], keys[order]))
    )
    np.testing.assert_allclose(permuted, together[order], atol=1e-6)


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(inner, num_resamplings, x_t):
    """One step from 500 to 400 with nothing known, and the inner sampler's."""
    nothing = jnp.zeros_like(x_t), jnp.array([False])
    outer = editing.inpainting(inner, *nothing, num_resamplings)
    rest = textbook.keys(4096), CENTRED, LINEAR, x_t, 500, 400
    return [sampler.step((), *rest)[1] for sampler in (inner, outer)]


CENTRED = denoiser(textbook.Gaussian(mean=0.0, std=0.5, betas=BETAS).denoise)
ANCESTRAL = samplers.ancestral("fixedsmall")
STILL = sampling.Sampler(
    init=lambda x_T: (), step=lambda state, k, d, f, x, t, s: (state, x, x)
)
STARTS = jnp.full((4096, 1), 0.7)


def test_nothing_known_is_sampling():
    """With nothing known, a step without resampling is the sampler's own step: equal
    mean and std, to 4 standard errors of their difference."""
    inner, outer = step(ANCESTRAL, 1, STARTS)
    std = np.std(inner)
    np.testing.assert_allclose(np.mean(outer), np.mean(inner), atol=6 * std / 64)
    np.testing.assert_allclose(np.std(outer), std, rtol=6 / np.sqrt(2 * 4096))


def test_resampling_is_the_forward_step():
    """A second resampling starts from q(x_t | x_s) of the first one's x_s: with a
    sampler that does not move, the result has the mean and std of that noise."""
    _, x_s = step(STILL, 2, STARTS)
    bars = textbook.table(BETAS).alpha_bar
    ratio = bars[499] / bars[399]
    std = np.sqrt(1 - ratio)
    np.testing.assert_allclose(np.mean(x_s), np.sqrt(ratio) * 0.7, atol=4 * std / 64)
    np.testing.assert_allclose(np.std(x_s), std, rtol=4 / np.sqrt(2 * 4096))


def test_resampling_approaches_the_conditional():
    """For normal data the unknown part given the known part is a known normal. Plain
    replacement misses it; resampling approaches it.

    RePaint is approximate for any finite number: four times as many resamplings at
    least halve the error of the mean. The covariance ends where 50 steps of fixedsmall,
    which lose some of it, leave it. With 512 draws a mean is known to 0.04.
    """
    given, n, known = np.array([1.5, 0.5]), 512, np.asarray(MASK)
    here, cross = COVARIANCE[np.ix_(known, known)], COVARIANCE[np.ix_(~known, known)]
    mean = cross @ np.linalg.solve(here, given)
    explained = cross @ np.linalg.solve(here, cross.T)
    covariance = COVARIANCE[np.ix_(~known, ~known)] - explained
    x_0 = jnp.zeros((n, 4)).at[:, known].set(given)
    steps, keys = timesteps.make("logsnr", LINEAR, 50), textbook.keys(n)

    run = jax.jit(functools.partial(inpaint, "ancestral", steps=steps))

    def errors(num_resamplings):
        filled, _ = run(x_0, keys, num_resamplings)
        unknown = np.asarray(filled)[:, ~known]
        error = unknown.mean(axis=0) - mean, np.cov(unknown.T) - covariance
        return [np.linalg.norm(x) for x in error]

    few, some, many = (errors(r) for r in (1, 4, 16))
    assert some[0] < 0.5 * few[0] and many[0] < 0.5 * some[0]
    assert many[1] < 0.75 * few[1]


def test_from_pure_noise():
    """From jsd's T, where no signal is left, a step is finite."""
    schedule = schedules.make("jsd", 10)
    x = jnp.asarray(X.reshape(3, 4), jnp.float32)

    @jax.jit
    def step(x_t):
        sampler = editing.inpainting(ANCESTRAL, x, MASK, 2)
        keys = textbook.keys(3)
        return sampler.step(
            (), keys, denoiser(lambda x_t, t: 0.5 * x_t), schedule, x_t, 10, 9
        )

    chex.assert_tree_all_finite(step(x))

"""Laws of editing: encoding, mixing under noise, image to image, and filling in."""

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
        """Along the arc between vectors of one length the length stays, and the angle
        to the first one grows evenly with the weight; the ends are bit for bit."""
        slerp = self.variant(editing.slerp)
        a, b = (jnp.asarray(x, jnp.float32) for x in (X, OTHER))
        flat = [np.asarray(x).reshape(3, -1) for x in (a, b)]
        length = [np.linalg.norm(x, axis=1) for x in flat]
        b = b * (length[0] / length[1])[:, None, None, None]
        whole = np.arccos(np.sum(flat[0] * flat[1], axis=1) / (length[0] * length[1]))
        for weight in (0.25, 0.5, 0.9):
            c = np.asarray(slerp(a, b, weight)).reshape(3, -1)
            np.testing.assert_allclose(np.linalg.norm(c, axis=1), length[0], rtol=1e-5)
            angle = np.arccos(np.sum(c * flat[0], axis=1) / length[0] ** 2)
            np.testing.assert_allclose(angle, weight * whole, rtol=1e-4)
        np.testing.assert_array_equal(slerp(a, b, 0.0), a)
        np.testing.assert_array_equal(slerp(a, b, 1.0), b)
        np.testing.assert_array_equal(
            slerp(a, b, jnp.array([0.0, 1.0, 1.0]))[1:], b[1:]
        )


def test_slerp_without_an_arc():
    """Parallel and opposite vectors have no arc: they are mixed linearly."""
    a = jnp.asarray(X, jnp.float32)
    for b in (a, 2 * a, -a, a * (1 + 1e-7)):
        mixed = editing.slerp(a, b, 0.25)
        np.testing.assert_allclose(mixed, 0.75 * a + 0.25 * b, atol=1e-6)


# Encoding.


@pytest.mark.usefixtures("x64")
def test_encoding_is_the_ode_backwards():
    """With the exact denoiser of normal data, encoding goes where the inverse of the
    exact ODE map goes, and decoding comes back; both errors fall as 1 / N."""

    @jax.jit
    def there_and_back(knots, x_0):
        x_T = editing.encode(DENOISE, LINEAR, knots, x_0)
        keys = textbook.keys(3)
        return x_T, sampling.sample(DDIM, DENOISE, LINEAR, knots, x_T, keys)[0]

    at_0, at_1 = DATA.ode_map(0.0), DATA.ode_map(1.0)  # the map is a straight line
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
    """The first step is alpha x_0 + sigma eps_hat(alpha x_0), the next one DDIM's with
    the noise seen there: eps_hat(x) = (x - alpha x_0_hat(x)) / sigma."""
    bars = textbook.table(BETAS).alpha_bar[[299, 899]]
    (a_s, a_t), (b_s, b_t) = np.sqrt(bars), np.sqrt(1 - bars)
    seen = a_s * X
    x_s = a_s * X + seen - a_s * DATA.x_0(seen, bars[0])
    x_0_hat = DATA.x_0(x_s, bars[0])
    x_t = a_t * x_0_hat + b_t * (x_s - a_s * x_0_hat) / b_s
    encode = jax.jit(lambda x: editing.encode(DENOISE, LINEAR, [900, 300], x))
    np.testing.assert_allclose(encode(X), x_t, rtol=1e-10)


# Image to image, and mixtures.


@functools.partial(jax.jit, static_argnums=0)
def img2img(last, x_0, keys):
    knots = np.unique(np.linspace(1, last, 60).astype(int))[::-1]
    return editing.img2img(ANCESTRAL, DENOISE, LINEAR, knots, x_0, keys)


def test_image_to_image_forgets_with_time():
    """From time 1 an image comes back but for its noise, of std 0.01; from T two with
    one noise become the same, but for alpha_T = 0.006 of their difference."""
    keys, x_0 = textbook.keys(3), jnp.asarray(X, jnp.float32)
    near = img2img(1, x_0, keys)
    np.testing.assert_allclose(near, x_0, atol=5 * 0.01)
    assert np.abs(near - x_0).max() > 1e-4
    far = img2img(1000, x_0, keys)
    other = img2img(1000, jnp.asarray(OTHER, jnp.float32), keys)
    assert np.abs(far - other).max() < 0.0064 * np.abs(X - OTHER).max()
    assert np.abs(far - x_0).max() > 0.1


def test_image_to_image_keeps_the_distribution():
    """Data in, data out, from any time: mean and std to 4 standard errors.

    The chain's own error at 60 steps, and its missing last noise, are below 3 % of the
    std (fixedsmall at 1000 steps: 0.4961 of 0.5).
    """
    x_0 = jnp.asarray(0.3 + 0.5 * np.random.default_rng(0).normal(size=(64, 64)))
    out = np.asarray(img2img(400, x_0.astype(jnp.float32), textbook.keys(64)))
    np.testing.assert_allclose(out.mean(), 0.3, atol=4 * 0.5 / 64)
    np.testing.assert_allclose(out.std(), 0.5, rtol=4 * 0.011 + 0.03)


KNOTS = timesteps.make("leading", LINEAR, 8)[2:]  # from time 626


@functools.partial(jax.jit, static_argnums=0)
def interpolate(name, x_0, other, weight, keys):
    sampler = samplers.make(name, "fixedlarge")
    rest = LINEAR, KNOTS, x_0
    if other is None:
        return editing.img2img(sampler, DENOISE, *rest, keys)
    return editing.interpolate(sampler, DENOISE, *rest, other, weight, keys)


def test_interpolation():
    """Ends are the images, noised and denoised with that noise; between them, a walk
    that is linear in x_t (a normal denoiser's) gives the mixture of the ends."""
    keys = textbook.keys(3)
    a, b = (jnp.asarray(x, jnp.float32) for x in (X, OTHER))
    ends = [interpolate("ancestral", x, None, None, keys) for x in (a, b)]
    for weight, expected in [
        (0.0, ends[0]),
        (1.0, ends[1]),
        (0.25, 0.75 * ends[0] + 0.25 * ends[1]),
    ]:
        mixed = interpolate("ancestral", a, b, jnp.full(3, weight), keys)
        np.testing.assert_allclose(mixed, expected, atol=2e-6)


def test_the_noise_is_shared():
    """The mixture that is walked from is that of the two noised ends: with one noise it
    has the amplitude sigma, not sigma sqrt(w^2 + (1 - w)^2)."""
    seen = []

    @denoiser
    def denoise(x_t, t):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x_t)
        return x_t

    n, knots = 64, np.array([600])
    zeros = jnp.zeros((n, 64))
    editing.interpolate(
        DDIM, denoise, LINEAR, knots, zeros, zeros, 0.5, textbook.keys(n)
    ).block_until_ready()
    jax.effects_barrier()
    sigma = np.sqrt(1 - textbook.table(BETAS).alpha_bar[599])
    np.testing.assert_allclose(seen[0].std(), sigma, rtol=4 / np.sqrt(2 * 64 * n))


# Inpainting.


@functools.partial(jax.jit, static_argnums=(0, 4))
def inpaint(name, x_0, keys, num_resamplings, num_frames=0, knots=KNOTS):
    return editing.inpaint(
        samplers.make(name, "fixedsmall"),
        correlated,
        LINEAR,
        knots,
        x_0,
        MASK[None],
        keys,
        num_resamplings,
        num_frames,
    )


@pytest.mark.parametrize("name", ["ancestral", "dpmpp_2m", "heun"])
def test_known_entries_are_kept(name):
    """Known entries come out bit for bit, in every frame; unknown ones do not matter to
    the result, and are not what was given."""
    x_0 = jnp.asarray(X.reshape(3, 4), jnp.float32)
    keys = textbook.keys(3)
    filled, frames = inpaint(name, x_0, keys, 2, 6)
    np.testing.assert_array_equal(filled[:, MASK], x_0[:, MASK])
    for frame in np.moveaxis(np.asarray(frames), 1, 0):
        np.testing.assert_array_equal(frame[:, MASK], x_0[:, MASK])
    assert np.all(np.abs(filled - x_0)[:, ~MASK] > 1e-4)
    again, _ = inpaint(name, jnp.where(MASK, x_0, 7.0), keys, 2, 6)
    np.testing.assert_array_equal(again, filled)


def test_known_denoisers():
    """What is known of x_0 is said of x_0 alone: the values beside it stay, and a last
    prediction that is shown goes on to the denoiser."""

    def denoise(x_t, t, self_cond):
        return Denoised(x_t + self_cond, 7 * x_t)

    x_0, ones = jnp.arange(8.0).reshape(2, 4), jnp.ones((2, 4))
    found, values = editing.known(denoise, x_0, MASK[None])(ones, 5, 2 * ones)
    np.testing.assert_array_equal(found, np.where(MASK, x_0, 3.0))
    np.testing.assert_array_equal(values, 7 * ones)


def test_examples_do_not_mix():
    """Example i is filled in the same whichever are beside it."""
    x_0, keys = jnp.asarray(X.reshape(3, 4), jnp.float32), textbook.keys(3)
    order = np.array([2, 0, 0])
    together, _ = inpaint("ancestral", x_0, keys, 2, 6)
    apart, _ = inpaint("ancestral", x_0[order], keys[order], 2, 6)
    np.testing.assert_allclose(apart, together[order], atol=1e-6)


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(inner, num_resamplings, x_t):
    """One step from 500 to 400 in which nothing is known, and the inner sampler's."""
    nothing = jnp.zeros_like(x_t), jnp.array([False])
    outer = editing.inpainting(inner, *nothing, num_resamplings)
    return [
        sampler.step(
            (), textbook.keys(4096), denoiser(CENTRED.denoise), LINEAR, x_t, 500, 400
        )[1]
        for sampler in (inner, outer)
    ]


CENTRED = textbook.Gaussian(mean=0.0, std=0.5, betas=BETAS)
ANCESTRAL = samplers.ancestral("fixedsmall")
STILL = sampling.Sampler(
    init=lambda x_T: (), step=lambda state, k, d, f, x, t, s: (state, x, x)
)
STARTS = jnp.full((4096, 1), 0.7)


def test_nothing_known_is_sampling():
    """Where nothing is known, a step without resampling is the sampler's own: one mean
    and one std, to 4 standard errors of their difference."""
    inner, outer = step(ANCESTRAL, 1, STARTS)
    std = np.std(inner)
    np.testing.assert_allclose(np.mean(outer), np.mean(inner), atol=6 * std / 64)
    np.testing.assert_allclose(np.std(outer), std, rtol=6 / np.sqrt(2 * 4096))


def test_resampling_is_the_forward_step():
    """A second resampling starts from q(x_t | x_s) of the first one's x_s: a sampler
    that does not move comes out with the mean and the std of one noising."""
    _, x_s = step(STILL, 2, STARTS)
    bars = textbook.table(BETAS).alpha_bar
    ratio = bars[499] / bars[399]
    std = np.sqrt(1 - ratio)
    np.testing.assert_allclose(np.mean(x_s), np.sqrt(ratio) * 0.7, atol=4 * std / 64)
    np.testing.assert_allclose(np.std(x_s), std, rtol=4 / np.sqrt(2 * 4096))


def test_resampling_approaches_the_conditional():
    """The unknown given the known: for normal data it is normal, with a mean and a
    covariance that are known. Mere replacement misses them; resampling comes near.

    RePaint is approximate at any finite number: four times as many resamplings at least
    halve the distance of the mean. The covariance ends where 50 steps of fixedsmall,
    which lose some of it, leave it. With 2048 draws a mean is known to 0.02.
    """
    given, n, known = np.array([1.5, 0.5]), 2048, np.asarray(MASK)
    here, cross = COVARIANCE[np.ix_(known, known)], COVARIANCE[np.ix_(~known, known)]
    mean = cross @ np.linalg.solve(here, given)
    explained = cross @ np.linalg.solve(here, cross.T)
    covariance = COVARIANCE[np.ix_(~known, ~known)] - explained
    x_0 = jnp.zeros((n, 4)).at[:, known].set(given)
    knots, keys = timesteps.make("logsnr", LINEAR, 50), textbook.keys(n)

    def distances(num_resamplings):
        filled, _ = inpaint("ancestral", x_0, keys, num_resamplings, 0, knots)
        unknown = np.asarray(filled)[:, ~known]
        off = unknown.mean(axis=0) - mean, np.cov(unknown.T) - covariance
        return [np.linalg.norm(x) for x in off]

    few, some, many = (distances(r) for r in (1, 4, 16))
    assert some[0] < 0.5 * few[0] and many[0] < 0.5 * some[0]
    assert many[1] < 0.75 * few[1]


def test_from_pure_noise():
    """From jsd's T, where nothing of x_0 is left, a step has finite numbers."""
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

"""Every sampler beside its paper's loop in plain NumPy, with a nonlinear denoiser."""

import functools

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
import textbook

from diffusion_jax import prng
from diffusion_jax.diffusion import langevin, samplers, sampling, schedules

CURVE = schedules.shifted_cosine(1000, 64)
KNOTS = np.array([1000.0, 731.5, 402.25, 155.75, 40.5, 7.0, 1.0])  # no stride twice
with jax.enable_x64(True):
    LEVELS = np.asarray(CURVE(KNOTS))
CHURN = {"levels": (0.1, 50.0), "s_noise": 1.01}  # T itself lies beyond 50


def denoiser(xp, x, logsnr):
    """Stands for a network: bent in x, and other at every noise level."""
    return 0.8 * xp.tanh(1.5 * x + 0.1 * logsnr) + 0.1 * xp.sin(3 * x)


def churned(make):
    return make(0.3, churn_levels=CHURN["levels"], churn_noise=CHURN["s_noise"])


LOOPS = {
    "ancestral fixedsmall": (samplers.ancestral("fixedsmall"), loops.ancestral),
    "ancestral fixedlarge": (
        samplers.ancestral("fixedlarge"),
        functools.partial(loops.ancestral, large=True),
    ),
    "ddim": (samplers.ddim(0.4), functools.partial(loops.ddim, eta=0.4)),
    "euler": (
        churned(samplers.euler),
        functools.partial(loops.edm, gamma=0.3, corrected=False, **CHURN),
    ),
    "heun plain": (samplers.heun(), loops.edm),
    "heun": (churned(samplers.heun), functools.partial(loops.edm, gamma=0.3, **CHURN)),
    "dpmpp_1": (samplers.multistep(1), loops.ddim),
    "dpmpp_2m": (samplers.multistep(2), loops.multistep_2),
    "dpmpp_3m": (samplers.multistep(3), loops.multistep_3),
    "dpmpp_2s": (samplers.singlestep(2), loops.singlestep_2),
    "dpmpp_3s": (samplers.singlestep(3), loops.singlestep_3),
    "predictor_corrector": (
        langevin.predictor_corrector(2, snr=0.2),
        functools.partial(loops.predictor_corrector, snr=0.2),
    ),
    "annealed_langevin": (
        langevin.annealed(2, snr=0.2),
        functools.partial(loops.annealed, snr=0.2),
    ),
}


def test_every_sampler_has_a_loop():
    """The loops speak of every sampler that there is."""
    assert {name.split()[0] for name in LOOPS} == set(samplers.SAMPLERS)


def noise_of(name, keys, shape):
    """What the sampler draws in each step, as its loop wants it."""

    def fold(keys, number):
        return jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    def corrections(keys):
        return [prng.normal(fold(keys, j), shape) for j in range(2)]

    def of_step(keys):
        if name == "annealed_langevin":
            return corrections(keys)
        if name == "predictor_corrector":
            first, second = jax.vmap(jax.random.split, out_axes=1)(keys)
            return [prng.normal(first, shape), corrections(second)]
        return prng.normal(keys, shape)

    steps = [of_step(fold(keys, i + 1)) for i in range(len(KNOTS) - 1)]
    return jax.tree.map(np.asarray, steps)


@pytest.mark.parametrize("double, error", [(True, 1e-9), (False, 1e-5)])
@pytest.mark.parametrize("name", LOOPS)
def test_walk_is_the_papers_loop(name, double, error):
    """Six steps of unequal strides equal the paper's loop, noise for noise.

    In float64 to 1e-9: times between knots come out of a curve's inverse, good to
    1e-12. In float32 to 1e-5: the loop is still in float64, and six steps round a few
    numbers of about 1, and log-SNRs of up to 15, at 6e-8 of them. Annealed Langevin
    carries x / alpha, 1800 at T, from level to level: 6e-8 of that is 1e-4.
    """
    if name == "annealed_langevin" and not double:
        error = 1e-4
    sampler, loop = LOOPS[name]

    def denoise(x, t):
        return denoiser(jnp, x, CURVE(t))

    @jax.jit
    def ours(x_T, keys):
        return sampling.sample(sampler, denoise, CURVE, KNOTS, x_T, keys)[0]

    D = functools.partial(denoiser, np)
    with jax.enable_x64(double):
        dtype, keys = jnp.result_type(float), textbook.keys(2)
        x_T = np.random.default_rng(0).normal(size=(2, 3)).astype(dtype)
        actual, noise = ours(x_T, keys), noise_of(name, keys, (3,))
    assert actual.dtype == dtype
    expected = loop(D, LEVELS, np.float64(x_T), noise)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=error)

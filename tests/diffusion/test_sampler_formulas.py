"""Every sampler against its paper's loop in plain NumPy, with a nonlinear denoiser."""

import functools
import operator

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
import textbook
from variants import denoiser

from diffusion_jax import prng
from diffusion_jax.diffusion import langevin, samplers, sampling, schedules

CURVE = schedules.shifted_cosine(1000, 64)
STEPS = np.array([1000.0, 731.5, 402.25, 155.75, 40.5, 7.0, 1.0])  # unequal strides
with jax.enable_x64(True):
    LEVELS = np.asarray(CURVE(STEPS))
CHURN = {"levels": (0.1, 50.0), "s_noise": 1.01}  # the level at T exceeds 50


def bent(xp, x, logsnr):
    """A stand-in for a network: nonlinear in x, and different at every noise level."""
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
    """LOOPS covers every sampler of the table."""
    assert {name.split()[0] for name in LOOPS} == set(samplers.SAMPLERS)


def noise_of(name, keys):
    """The noise that the sampler draws in each step, in the form its loop takes."""

    def of_step(i):
        step_keys = prng.fold_in(keys, i + 1)

        def corrections(keys):
            return [prng.normal(prng.fold_in(keys, j), (3,)) for j in range(2)]

        if name == "annealed_langevin":
            return corrections(step_keys)
        if name == "predictor_corrector":
            first, second = jax.vmap(jax.random.split, out_axes=1)(step_keys)
            return [prng.normal(first, (3,)), corrections(second)]
        return prng.normal(step_keys, (3,))

    steps = range(len(STEPS) - 1)
    drawn = jax.lax.map(of_step, jnp.asarray(steps))
    return [jax.tree.map(operator.itemgetter(i), drawn) for i in steps]


@functools.cache
def samples(double):
    """x_T, and by sampler x_0 and the noise of each step, from one compiled program."""

    @denoiser
    def denoise(x, t):
        return bent(jnp, x, CURVE(t))

    @jax.jit
    def run(x_T, keys):
        drawn = {  # one program for all that draw alike
            draw: noise_of(draw, keys) for draw in ("", *LANGEVIN)
        }
        return {
            name: (
                sampling.sample(sampler, denoise, CURVE, STEPS, x_T, keys)[0],
                drawn[name if name in LANGEVIN else ""],
            )
            for name, (sampler, _) in LOOPS.items()
        }

    with jax.enable_x64(double):
        dtype = jnp.result_type(float)
        x_T = np.random.default_rng(0).normal(size=(2, 3)).astype(dtype)
        return x_T, jax.device_get(run(x_T, textbook.keys(2)))


LANGEVIN = ("predictor_corrector", "annealed_langevin")


@pytest.mark.parametrize("double, error", [(True, 1e-9), (False, 1e-5)])
@pytest.mark.parametrize("name", LOOPS)
def test_equals_the_papers_loop(name, double, error):
    """Six steps of unequal strides equal the paper's loop, noise for noise.

    In float64 to 1e-9: times between timesteps come from a curve's inverse, accurate to
    1e-12. In float32 to 1e-5: the loop is still in float64, and six steps round numbers
    of about 1, and log-SNRs of up to 15, at 6e-8 relative. Annealed Langevin carries
    x / alpha, 1800 at T, from level to level: 6e-8 of that is 1e-4.
    """
    if name == "annealed_langevin" and not double:
        error = 1e-4
    x_T, by_name = samples(double)
    actual, noise = by_name[name]
    assert actual.dtype == (np.float64 if double else np.float32)
    expected = LOOPS[name][1](
        functools.partial(bent, np),
        LEVELS,
        np.float64(x_T),
        noise,
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=error)

"""Our samplers beside diffusers' schedulers: the same network, noise and options.

Both sides compute in float64 (see `double`), so that only the mathematics can differ:
ten steps of a smooth network magnify 1e-16 by far less than 1e7. What cannot be
compared: churn in their Euler schedulers, which call the network before they add the
noise, at the lower level; DDPM's "learned", which is a variance there and its logarithm
here; `steps_offset` and "linspace" spacing, which ours lack.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

REASON = "needs the extra 'parity': pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=REASON)
diffusers = pytest.importorskip("diffusers", reason=REASON)

from diffusion_jax import prng
from diffusion_jax.diffusion import (
    guidance,
    process,
    samplers,
    sampling,
    schedules,
    timesteps,
)

pytestmark = [
    pytest.mark.usefixtures("x64", "double"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # theirs
]
NUM_TIMESTEPS, NUM_STEPS = 1000, 10
LINEAR = schedules.make("linear", NUM_TIMESTEPS)
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
MODULES = ("ddim", "ddpm", "dpmsolver_multistep", "dpmsolver_singlestep")
MODULES += ("heun_discrete", "euler_discrete", "edm_euler", "edm_dpmsolver_multistep")
X_T = np.random.default_rng(0).normal(size=(2, 3, 1))


class Double:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self.module, self.float32 = module, module.float64

    def __getattr__(self, name):
        return getattr(self.module, name)


@pytest.fixture
def double(monkeypatch):
    """Makes diffusers' schedulers compute in float64, tables and steps alike."""
    for name in MODULES:
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        monkeypatch.setattr(module, "torch", Double(torch))
        monkeypatch.setattr(module, "np", Double(np), raising=False)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network(x, t, sin):
    """Stands for a network, on both sides: bent in x, and other at every time."""
    return 0.9 * x + 0.2 * sin(3 * x + 0.01 * t)


def keys():
    return jax.random.split(jax.random.key(0), len(X_T))


def our_walk(sampler, schedule, knots, prediction="eps", clip="none", twice=False):
    """The predictions of x_0 of every step; the last one is the sample."""

    def ours(x, t):
        output = network(x, t[:, None, None], jnp.sin)
        return jnp.concatenate([output, jnp.cos(output)], -1) if twice else output

    denoise = guidance.from_network(ours, prediction, schedule, twice)
    denoise = guidance.THRESHOLDING[clip](denoise)

    @jax.jit
    def frames(x_T):
        n = len(knots)
        return sampling.sample(sampler, denoise, schedule, knots, x_T, keys(), n)[1]

    return np.asarray(frames(X_T)).swapaxes(0, 1)


def our_noise():
    """The noise that our walk draws, step by step, in the place of randn_tensor."""
    steps = iter(range(1, NUM_STEPS + 1))

    def randn_tensor(shape, **unused):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys(), next(steps))
        return torch.from_numpy(np.array(prng.normal(step_keys, shape[1:])))

    return randn_tensor


def their_walk(scheduler, x, call_times=None, twice=False, **arguments):
    """The sample, from x, and their predictions of x_0 where they tell them.

    The network hears call_times where ours are real and theirs rounded.
    """
    x, seen = torch.from_numpy(np.array(x)), []
    call_times = scheduler.timesteps if call_times is None else call_times
    for t, heard in zip(scheduler.timesteps, call_times, strict=True):
        output = network(scheduler.scale_model_input(x, t), float(heard), torch.sin)
        output = torch.cat([output, torch.cos(output)], 1) if twice else output
        given = {name: value() for name, value in arguments.items()}
        result = scheduler.step(output, t, x, **given)
        x = result.prev_sample
        seen.append(result.get("pred_original_sample"))
    assert x.dtype == torch.float64
    return x.numpy(), seen


def check(ours, theirs):
    """The samples agree, and every prediction of x_0 on the way that is told."""
    sample, seen = theirs
    np.testing.assert_allclose(ours[-1], sample, **TOLERANCE)
    if None not in seen and len(seen) == len(ours):
        for mine, other in zip(ours, seen, strict=True):
            np.testing.assert_allclose(mine, other.numpy(), **TOLERANCE)


@pytest.mark.parametrize(
    "prediction, spacing, clip, eta, zero_terminal_snr",
    [
        ("eps", "leading", "static", 0.0, False),
        ("eps", "trailing", "none", 1.0, False),
        ("x0", "trailing", "none", 0.0, False),
        ("v", "leading", "dynamic", 0.5, False),
        ("v", "trailing", "static", 0.0, True),
    ],
)
def test_ddim(prediction, spacing, clip, eta, zero_terminal_snr):
    """DDIM in every prediction, spacing, clip, eta, and with zero terminal SNR.

    The noise is inferred anew from the clipped x_0, as ours is
    (use_clipped_model_output; diffusers' default keeps the network's own eps there).
    """
    scheduler = diffusers.DDIMScheduler(
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        clip_sample=clip == "static",
        thresholding=clip == "dynamic",
        sample_max_value=1e9,  # theirs would clip the percentile at 1
        rescale_betas_zero_snr=zero_terminal_snr,
    )
    schedule = schedules.make(
        "linear", NUM_TIMESTEPS, zero_terminal_snr=zero_terminal_snr
    )
    knots = timesteps.make(spacing, schedule, NUM_STEPS)
    scheduler.set_timesteps(NUM_STEPS)
    np.testing.assert_array_equal(scheduler.timesteps, knots - 1)
    draw = our_noise()
    theirs = their_walk(
        scheduler,
        X_T,
        eta=lambda: eta,
        use_clipped_model_output=lambda: True,
        variance_noise=lambda: draw(X_T.shape) if eta else None,
    )
    ours = our_walk(samplers.ddim(eta), schedule, knots, prediction, clip)
    check(ours, theirs)


@pytest.mark.parametrize(
    "variance, theirs, prediction",
    [
        ("fixedsmall", "fixed_small", "eps"),
        ("fixedlarge", "fixed_large", "x0"),
        ("learned_range", "learned_range", "v"),
    ],
)
def test_ddpm(variance, theirs, prediction, monkeypatch):
    """The ancestral sampler is DDPMScheduler, by variance, when both hear one noise."""
    module = importlib.import_module("diffusers.schedulers.scheduling_ddpm")
    monkeypatch.setattr(module, "randn_tensor", our_noise())
    scheduler = diffusers.DDPMScheduler(
        prediction_type=PREDICTIONS[prediction], variance_type=theirs, clip_sample=True
    )
    scheduler.set_timesteps(NUM_STEPS)
    knots = timesteps.make("leading", LINEAR, NUM_STEPS)
    np.testing.assert_array_equal(scheduler.timesteps, knots - 1)
    twice = variance == "learned_range"
    ours = our_walk(
        samplers.ancestral(variance), LINEAR, knots, prediction, "static", twice
    )
    check(ours, their_walk(scheduler, X_T, twice=twice))


def levels(schedule, knots):
    """Noise over signal at the knots, and the 0 of the last denoising."""
    return torch.from_numpy(np.append(np.exp(-0.5 * np.asarray(schedule(knots))), 0.0))


class MendedMultistep(diffusers.DPMSolverMultistepScheduler):
    """Theirs with the whole second derivative in the step of order 3.

    Their D2 is the second divided difference, half of the derivative that the
    expansion asks for, and so the step as it is published is only of order 2 (as it is
    measured in test_sampler_laws with ours: 3).
    """

    def multistep_dpm_solver_third_order_update(self, outputs, sample, noise=None):
        lam = -torch.log(self.sigmas[self.step_index - 2 : self.step_index + 2])
        h_1, h_0, h = torch.diff(lam)
        m_2, m_1, m_0 = outputs
        bend = ((m_0 - m_1) / h_0 - (m_1 - m_2) / h_1) * h**2 / (h_0 + h_1)
        alpha, _ = self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index + 1])
        psi = 0.5 - (1 + torch.expm1(-h) / h) / h
        theirs = super().multistep_dpm_solver_third_order_update(outputs, sample=sample)
        return theirs + alpha * psi * bend


@pytest.mark.parametrize(
    "order, prediction, clip",
    [(1, "v", "none"), (2, "eps", "dynamic"), (2, "x0", "none"), (3, "eps", "none")],
)
def test_dpm_solver_multistep(order, prediction, clip):
    """DPM-Solver++ of order 1, 2 and 3 (see MendedMultistep), ended by a denoising.

    lower_order_final is off: beyond the last step, which goes to zero noise in one
    plain denoising, ours lowers no order.
    """
    scheduler = MendedMultistep(
        solver_order=order,
        prediction_type=PREDICTIONS[prediction],
        thresholding=clip == "dynamic",
        sample_max_value=1e9,
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    knots = timesteps.make("trailing", LINEAR, NUM_STEPS)
    scheduler.set_timesteps(timesteps=list(knots - 1))
    ours = our_walk(samplers.multistep(order), LINEAR, knots, prediction, clip)
    check(ours, their_walk(scheduler, X_T))


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_singlestep(order):
    """DPM-Solver++ of order 2 and 3 with calls between knots, placed where ours are.

    diffusers counts calls as steps: 1, 2, (3) to a step of ours. Its solver_type names
    both of its formulas: for the paper's algorithm 2 the middle call takes "heun", the
    last "midpoint".
    """
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        solver_order=order, lower_order_final=True, final_sigmas_type="zero"
    )
    knots = timesteps.make("logsnr", LINEAR, 4)
    ends = np.asarray(LINEAR(knots))
    between = [
        np.asarray(LINEAR.time((1 - k / order) * ends[:-1] + k / order * ends[1:]))
        for k in range(order)
    ]
    calls = np.append(np.stack(between, 1).ravel(), knots[-1])
    scheduler.set_timesteps(len(calls))
    scheduler.sigmas = levels(LINEAR, calls)
    scheduler.order_list = list(range(1, order + 1)) * (len(knots) - 1) + [1]
    step = scheduler.step

    def step_by_type(*arguments):
        number = scheduler.step_index or 0
        last = scheduler.order_list[number] == order
        scheduler.register_to_config(solver_type="midpoint" if last else "heun")
        return step(*arguments)

    scheduler.step = step_by_type
    ours = our_walk(samplers.singlestep(order), LINEAR, knots)
    check(ours, their_walk(scheduler, X_T, torch.from_numpy(calls - 1)))


@pytest.mark.parametrize(
    "name, prediction, spacing, clip",
    [
        ("heun", "eps", "trailing", "none"),
        ("heun", "v", "leading", "static"),
        ("heun", "x0", "leading", "none"),
        ("euler", "eps", "leading", "none"),
        ("euler", "v", "trailing", "none"),
    ],
)
def test_heun_and_euler(name, prediction, spacing, clip):
    """Heun's and Euler's walks through x / alpha, in every prediction."""
    make = {"heun": diffusers.HeunDiscreteScheduler}
    make["euler"] = diffusers.EulerDiscreteScheduler
    options = {"clip_sample": clip == "static"} if name == "heun" else {}
    scheduler = make[name](
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        **options,
    )
    scheduler.set_timesteps(NUM_STEPS)
    knots = timesteps.make(spacing, LINEAR, NUM_STEPS)
    ours = our_walk(samplers.SAMPLERS[name][0](), LINEAR, knots, prediction, clip)
    x = X_T / np.asarray(process.alpha(LINEAR(knots[0])))
    sample, seen = their_walk(scheduler, x)
    check(ours, (sample, seen if name == "euler" else seen[::2]))


@pytest.mark.parametrize(
    "make, sampler",
    [
        (diffusers.EDMEulerScheduler, samplers.euler()),
        (
            functools.partial(
                diffusers.EDMDPMSolverMultistepScheduler,
                solver_order=2,
                lower_order_final=False,
            ),
            samplers.multistep(2),
        ),
    ],
    ids=["euler", "dpm_solver_2m"],
)
def test_edm(make, sampler):
    """EDM's schedule, preconditioning and knots, by Euler and by DPM-Solver++(2M).

    Their network hears 0.25 log(level), ours t - 1: here both are told ours.
    """
    edm = schedules.make("edm", NUM_STEPS)
    knots = timesteps.make("trailing", edm, NUM_STEPS)
    scheduler = make(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(NUM_STEPS)
    np.testing.assert_allclose(scheduler.sigmas, levels(edm, knots), rtol=1e-9)
    x = X_T / np.asarray(process.alpha(edm(NUM_STEPS)))
    ours = our_walk(sampler, edm, knots, "edm")
    check(ours, their_walk(scheduler, x, torch.from_numpy(knots - 1.0)))


@pytest.mark.parametrize(
    "option, spacing", [("use_karras_sigmas", "karras"), ("use_lu_lambdas", "logsnr")]
)
def test_spacing_by_noise(option, spacing):
    """Karras' knots, and those even in log-SNR, are theirs, from T to 1."""
    scheduler = diffusers.DPMSolverMultistepScheduler(**{option: True})
    scheduler.set_timesteps(NUM_STEPS)
    knots = timesteps.make(spacing, LINEAR, NUM_STEPS)
    np.testing.assert_allclose(scheduler.sigmas, levels(LINEAR, knots), rtol=1e-9)
    # Theirs are rounded for the network; ours are real.
    np.testing.assert_allclose(scheduler.timesteps, knots - 1, atol=0.5 + 1e-9)

"""Our samplers against diffusers' schedulers, with equal network, noise and options.

Both sides compute in float64 (see `double`), so that only the mathematics can differ:
ten steps of a smooth network amplify 1e-16 by far less than 1e7. Not comparable: churn
in their Euler schedulers, which call the network before adding the noise, at the lower
level; DDPM's "learned", a variance there and its logarithm here; `steps_offset` and
"linspace" spacing, which ours lack.
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

from diffusion_jax import prng  # noqa: E402
from diffusion_jax.diffusion import (  # noqa: E402
    guidance,
    process,
    samplers,
    sampling,
    schedules,
    timesteps,
)
from diffusion_jax.diffusion.denoiser import from_network  # noqa: E402

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
    """A stand-in for a network on both sides: nonlinear, different at every time."""
    return 0.9 * x + 0.2 * sin(3 * x + 0.01 * t)


def keys():
    return jax.random.split(jax.random.key(0), len(X_T))


def our_chain(
    sampler, schedule, steps, prediction="eps", thresholding="none", twice=False
):
    """The predicted x_0 of every step; the last one is the sample."""

    def ours(x, t, self_cond):
        output = network(x, t[:, None, None], jnp.sin)
        return jnp.concatenate([output, jnp.cos(output)], -1) if twice else output

    denoise = from_network(ours, prediction, schedule, twice)
    denoise = guidance.THRESHOLDING[thresholding](denoise)

    @jax.jit
    def frames(x_T):
        n = len(steps)
        return sampling.sample(sampler, denoise, schedule, steps, x_T, keys(), n)[1]

    return np.asarray(frames(X_T)).swapaxes(0, 1)


def our_noise():
    """Replaces randn_tensor by the noise that our sampling loop draws, step by step."""
    numbers = iter(range(1, NUM_STEPS + 1))

    def randn_tensor(shape, **unused):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys(), next(numbers))
        return torch.from_numpy(np.array(prng.normal(step_keys, shape[1:])))

    return randn_tensor


def their_chain(scheduler, x, call_times=None, twice=False, **arguments):
    """The sample, from x, and their predictions of x_0, where they return them.

    The network receives call_times if our times are continuous and theirs rounded.
    """
    x, predictions = torch.from_numpy(np.array(x)), []
    call_times = scheduler.timesteps if call_times is None else call_times
    for t, call_time in zip(scheduler.timesteps, call_times, strict=True):
        output = network(scheduler.scale_model_input(x, t), float(call_time), torch.sin)
        output = torch.cat([output, torch.cos(output)], 1) if twice else output
        given = {name: value() for name, value in arguments.items()}
        result = scheduler.step(output, t, x, **given)
        x = result.prev_sample
        predictions.append(result.get("pred_original_sample"))
    assert x.dtype == torch.float64
    return x.numpy(), predictions


def check(ours, theirs):
    """The samples agree, and every predicted x_0 that they return."""
    sample, predictions = theirs
    np.testing.assert_allclose(ours[-1], sample, **TOLERANCE)
    if None not in predictions and len(predictions) == len(ours):
        for mine, other in zip(ours, predictions, strict=True):
            np.testing.assert_allclose(mine, other.numpy(), **TOLERANCE)


@pytest.mark.parametrize(
    "prediction, spacing, thresholding, eta, zero_terminal_snr",
    [
        ("eps", "leading", "static", 0.0, False),
        ("eps", "trailing", "none", 1.0, False),
        ("x0", "trailing", "none", 0.0, False),
        ("v", "leading", "dynamic", 0.5, False),
        ("v", "trailing", "static", 0.0, True),
    ],
)
def test_ddim(prediction, spacing, thresholding, eta, zero_terminal_snr):
    """DDIM with every prediction, spacing, thresholding, eta and zero terminal SNR.

    eps is recomputed from the clipped x_0, as ours is (use_clipped_model_output;
    diffusers' default keeps the network's eps).
    """
    scheduler = diffusers.DDIMScheduler(
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        clip_sample=thresholding == "static",
        thresholding=thresholding == "dynamic",
        sample_max_value=1e9,  # theirs would clip the percentile at 1
        rescale_betas_zero_snr=zero_terminal_snr,
    )
    schedule = schedules.make(
        "linear", NUM_TIMESTEPS, zero_terminal_snr=zero_terminal_snr
    )
    steps = timesteps.make(spacing, schedule, NUM_STEPS)
    scheduler.set_timesteps(NUM_STEPS)
    np.testing.assert_array_equal(scheduler.timesteps, steps - 1)
    draw = our_noise()
    theirs = their_chain(
        scheduler,
        X_T,
        eta=lambda: eta,
        use_clipped_model_output=lambda: True,
        variance_noise=lambda: draw(X_T.shape) if eta else None,
    )
    ours = our_chain(samplers.ddim(eta), schedule, steps, prediction, thresholding)
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
    """Ancestral sampling equals DDPMScheduler, for each variance, with equal noise."""
    module = importlib.import_module("diffusers.schedulers.scheduling_ddpm")
    monkeypatch.setattr(module, "randn_tensor", our_noise())
    scheduler = diffusers.DDPMScheduler(
        prediction_type=PREDICTIONS[prediction], variance_type=theirs, clip_sample=True
    )
    scheduler.set_timesteps(NUM_STEPS)
    steps = timesteps.make("leading", LINEAR, NUM_STEPS)
    np.testing.assert_array_equal(scheduler.timesteps, steps - 1)
    twice = variance == "learned_range"
    ours = our_chain(
        samplers.ancestral(variance), LINEAR, steps, prediction, "static", twice
    )
    check(ours, their_chain(scheduler, X_T, twice=twice))


def levels(schedule, steps):
    """sigma / alpha at the timesteps, and the 0 of the last denoising."""
    return torch.from_numpy(np.append(np.exp(-0.5 * np.asarray(schedule(steps))), 0.0))


class MendedMultistep(diffusers.DPMSolverMultistepScheduler):
    """Theirs with the full second derivative in the step of order 3.

    Their D2 is the second divided difference, half of the derivative in the expansion,
    which makes their step order 2 (test_sampler_laws measures 3 for ours).
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
    "order, prediction, thresholding",
    [(1, "v", "none"), (2, "eps", "dynamic"), (2, "x0", "none"), (3, "eps", "none")],
)
def test_dpm_solver_multistep(order, prediction, thresholding):
    """DPM-Solver++ of order 1, 2 and 3 (see MendedMultistep), with a final denoising.

    lower_order_final is off: ours lowers the order only in the last step, which is one
    plain denoising to zero noise.
    """
    scheduler = MendedMultistep(
        solver_order=order,
        prediction_type=PREDICTIONS[prediction],
        thresholding=thresholding == "dynamic",
        sample_max_value=1e9,
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    steps = timesteps.make("trailing", LINEAR, NUM_STEPS)
    scheduler.set_timesteps(timesteps=list(steps - 1))
    ours = our_chain(samplers.multistep(order), LINEAR, steps, prediction, thresholding)
    check(ours, their_chain(scheduler, X_T))


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_singlestep(order):
    """Singlestep DPM-Solver++ of order 2 and 3, with calls at the same times as ours.

    diffusers counts each call as a step: 1, 2, (3) per step of ours. Its solver_type
    selects one of two formulas: the paper's algorithm 2 uses "heun" for the middle call
    and "midpoint" for the last.
    """
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        solver_order=order, lower_order_final=True, final_sigmas_type="zero"
    )
    steps = timesteps.make("logsnr", LINEAR, 4)
    ends = np.asarray(LINEAR(steps))
    between = [
        np.asarray(LINEAR.time((1 - k / order) * ends[:-1] + k / order * ends[1:]))
        for k in range(order)
    ]
    calls = np.append(np.stack(between, 1).ravel(), steps[-1])
    scheduler.set_timesteps(len(calls))
    scheduler.sigmas = levels(LINEAR, calls)
    scheduler.order_list = list(range(1, order + 1)) * (len(steps) - 1) + [1]
    step = scheduler.step

    def step_by_type(*arguments):
        number = scheduler.step_index or 0
        last = scheduler.order_list[number] == order
        scheduler.register_to_config(solver_type="midpoint" if last else "heun")
        return step(*arguments)

    scheduler.step = step_by_type
    ours = our_chain(samplers.singlestep(order), LINEAR, steps)
    check(ours, their_chain(scheduler, X_T, torch.from_numpy(calls - 1)))


@pytest.mark.parametrize(
    "name, prediction, spacing, thresholding",
    [
        ("heun", "eps", "trailing", "none"),
        ("heun", "v", "leading", "static"),
        ("heun", "x0", "leading", "none"),
        ("euler", "eps", "leading", "none"),
        ("euler", "v", "trailing", "none"),
    ],
)
def test_heun_and_euler(name, prediction, spacing, thresholding):
    """Heun's and Euler's methods in x / alpha, with every prediction."""
    make = {"heun": diffusers.HeunDiscreteScheduler}
    make["euler"] = diffusers.EulerDiscreteScheduler
    options = {"clip_sample": thresholding == "static"} if name == "heun" else {}
    scheduler = make[name](
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        **options,
    )
    scheduler.set_timesteps(NUM_STEPS)
    steps = timesteps.make(spacing, LINEAR, NUM_STEPS)
    ours = our_chain(
        samplers.SAMPLERS[name][0](), LINEAR, steps, prediction, thresholding
    )
    x = X_T / np.asarray(process.alpha(LINEAR(steps[0])))
    sample, seen = their_chain(scheduler, x)
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
    """EDM's schedule, preconditioning and timesteps, with Euler and DPM-Solver++(2M).

    Their network receives 0.25 log(level), ours t - 1: here both receive ours.
    """
    edm = schedules.make("edm", NUM_STEPS)
    steps = timesteps.make("trailing", edm, NUM_STEPS)
    scheduler = make(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(NUM_STEPS)
    np.testing.assert_allclose(scheduler.sigmas, levels(edm, steps), rtol=1e-9)
    x = X_T / np.asarray(process.alpha(edm(NUM_STEPS)))
    ours = our_chain(sampler, edm, steps, "edm")
    check(ours, their_chain(scheduler, x, torch.from_numpy(steps - 1.0)))


@pytest.mark.parametrize(
    "option, spacing", [("use_karras_sigmas", "karras"), ("use_lu_lambdas", "logsnr")]
)
def test_spacing_by_noise(option, spacing):
    """Karras spacing, and spacing even in log-SNR, equal theirs, from T to 1."""
    scheduler = diffusers.DPMSolverMultistepScheduler(**{option: True})
    scheduler.set_timesteps(NUM_STEPS)
    steps = timesteps.make(spacing, LINEAR, NUM_STEPS)
    np.testing.assert_allclose(scheduler.sigmas, levels(LINEAR, steps), rtol=1e-9)
    # Theirs are rounded for the network; ours are continuous.
    np.testing.assert_allclose(scheduler.timesteps, steps - 1, atol=0.5 + 1e-9)

"""What of diffusion goes together: refusals, in words, before anything is compiled."""

import numpy as np

from diffusion_jax.diffusion import guidance, losses, process, timesteps
from diffusion_jax.methods.base import check_label
from diffusion_jax.methods.ddpm.method import DDPM

WITH_SIGNAL = "a schedule with signal left at T (such as linear or cosine)"


def check(method: DDPM, schedule: str, draw: str, spacing: str) -> None:
    """Refuses combinations that have no meaning.

    Args:
      method: put together.
      schedule: its name.
      draw: the name of its timestep_sampler.
      spacing: the name of its knots' spacing.

    Raises:
      ValueError: it says what does not go together and what to choose.
    """
    for refused, words in (
        *_about_noise(method, schedule),
        *_about_times(method, draw, spacing),
        *_about_variance(method),
    ):
        if refused:
            raise ValueError(words)


Refusals = tuple[tuple[bool, str], ...]  # whether, and in what words


def _about_noise(method: DDPM, schedule: str) -> Refusals:
    """Schedules that leave no signal at T."""
    prediction, options = process.PREDICTIONS[method.prediction], method.sampling
    ends_in_noise = bool(np.isneginf(method.schedule(method.num_timesteps)))
    starts_in_noise = ends_in_noise and options.knots[0] == method.num_timesteps
    return (
        (
            ends_in_noise and prediction.needs_signal,
            f"The schedule {schedule!r} leaves no signal at time T, where a network "
            f"that predicts {method.prediction} cannot say what x_0 is: choose another "
            "diffusion.prediction (x0, v or mu).",
        ),
        (
            ends_in_noise and method.loss_name in losses.NEED_SIGNAL,
            f"The schedule {schedule!r} leaves no signal at time T, where the weight "
            f"of diffusion.loss {method.loss_name!r} is not defined: choose "
            f"{WITH_SIGNAL}.",
        ),
        (
            starts_in_noise and options.sampler.needs_signal,
            f"The schedule {schedule!r} leaves no signal at time T, infinitely many "
            "times as much noise: this sample.sampler cannot start there. Choose "
            f"another sampler, spacing 'leading', or {WITH_SIGNAL}.",
        ),
    )


def _about_times(method: DDPM, draw: str, spacing: str) -> Refusals:
    """Real times where something speaks of the step from t to t - 1."""
    prediction = process.PREDICTIONS[method.prediction]
    real_walk = (
        spacing in timesteps.CONTINUOUS_SPACINGS
        or method.sampling.sampler.continuous_time
    )
    return (
        (
            prediction.discrete_time and not method.timestep_sampler.whole,
            f"diffusion.timestep_sampler {draw!r} draws real times, and {method.prediction!r} "
            "is about the step from t to t - 1: choose uniform, antithetic or "
            "second_moment.",
        ),
        (
            prediction.discrete_time and real_walk,
            f"A network that predicts {method.prediction} speaks of the step from t to "
            "t - 1 alone, and this sample.sampler or spacing visits times between: "
            f"choose another (spacing {spacing!r}).",
        ),
        (
            method.loss_name in losses.LEARN_VARIANCE
            and not method.timestep_sampler.whole,
            f"diffusion.loss {method.loss_name!r} is about steps from t to t - 1, and "
            f"diffusion.timestep_sampler {draw!r} draws real times: choose loss 'continuous', "
            "or another timestep_sampler.",
        ),
        (
            method.loss_name == "continuous" and draw == "lognormal",
            "diffusion.loss 'continuous' is an integral over all times alike, and "
            "diffusion.timestep_sampler 'lognormal' is not even: choose continuous, uniform "
            "or antithetic, or loss 'edm'.",
        ),
    )


def _about_variance(method: DDPM) -> Refusals:
    """Learned variances that nothing teaches, or that a walk cannot use."""
    sampler = method.sampling.sampler
    fewer = len(method.sampling.knots) < method.num_timesteps
    return (
        (
            method.learned_variance and method.loss_name not in losses.LEARN_VARIANCE,
            f"diffusion.variance {method.variance!r} is not taught by diffusion.loss "
            f"{method.loss_name!r}: choose {' or '.join(losses.LEARN_VARIANCE)}.",
        ),
        (
            method.loss_name == "hybrid" and not method.learned_variance,
            "diffusion.loss 'hybrid' adds the bound to teach the variance alone, and "
            f"diffusion.variance {method.variance!r} is fixed: choose simple or bound, "
            "or variance 'learned_range'.",
        ),
        (
            method.variance == "learned" and sampler.needs_variance and fewer,
            "diffusion.variance 'learned' is that of single steps, from t to t - 1: "
            "set sample.num_steps to num_timesteps, choose another sampler, or train "
            "with 'learned_range', which serves every stride.",
        ),
    )


def check_guidance(method: DDPM) -> None:
    """Refuses labels, dropout and guidance that do not go together.

    Raises:
      ValueError: it says which value, and what to choose.
    """
    options, classes = method.sampling, method.num_classes
    if options.clip not in guidance.THRESHOLDING:
        raise ValueError(
            f"Unknown sample.clip {options.clip!r}. "
            f"Known ones: {', '.join(guidance.THRESHOLDING)}."
        )
    if not 0 <= method.cond_dropout < 1:
        raise ValueError(
            f"diffusion.cond_dropout must lie in [0, 1), not {method.cond_dropout}."
        )
    if method.cond_dropout and not classes:
        raise ValueError(
            f"diffusion.cond_dropout = {method.cond_dropout} leaves out classes that "
            "model.num_classes = 0 does not have: set one of the two."
        )
    guided = options.guidance_scale != 1
    if guided and not (classes and method.cond_dropout):
        raise ValueError(
            f"sample.guidance_scale = {options.guidance_scale} needs a network trained "
            "with and without classes: model.num_classes and diffusion.cond_dropout "
            "above 0. Without guidance it is 1."
        )
    low, high = options.guidance_interval
    if not low < high:
        raise ValueError(
            f"sample.guidance_interval = ({low}, {high}) holds no log-SNR: give the "
            "smaller end first."
        )
    check_label(options.label, classes)

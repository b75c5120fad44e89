"""Checks for invalid combinations of options, before anything is compiled."""

from typing import Any

import numpy as np

from diffusion_jax.data.base import COND_IMAGE
from diffusion_jax.diffusion import guidance, losses, process
from diffusion_jax.diffusion.sampling import Sampler
from diffusion_jax.lookup import lookup
from diffusion_jax.methods.base import check_range
from diffusion_jax.methods.ddpm.method import DDPM

WITH_SIGNAL = "a schedule with signal left at T (such as linear or cosine)"


def check_training(method: DDPM) -> None:
    """Checks that a method can be trained.

    Raises:
      ValueError: it cannot; the message names the config keys and a valid choice.
    """
    prediction = process.PREDICTIONS[method.prediction]
    discrete = method.timestep_sampler.discrete
    learns_variance = method.loss_name in losses.LEARN_VARIANCE
    _raise_first(
        (
            method.schedule.ends_in_noise and prediction.needs_signal,
            "The schedule leaves no signal at time T, where a network that predicts "
            f"{method.prediction} does not determine x_0: choose another "
            "diffusion.prediction (x0, v or mu).",
        ),
        (
            method.schedule.ends_in_noise and method.loss_name in losses.NEED_SIGNAL,
            "The schedule leaves no signal at time T, where the weight of "
            f"diffusion.loss {method.loss_name!r} is not defined: choose "
            f"{WITH_SIGNAL}.",
        ),
        (
            prediction.discrete_time and not discrete,
            "This diffusion.timestep_sampler draws continuous times, and diffusion."
            f"prediction {method.prediction!r} is defined for steps from t to t - 1: "
            "choose uniform, antithetic or second_moment.",
        ),
        (
            learns_variance and not discrete,
            f"diffusion.loss {method.loss_name!r} is defined for steps from t to "
            "t - 1, and this diffusion.timestep_sampler draws continuous times: choose "
            "loss 'continuous', or another timestep_sampler.",
        ),
        (
            method.learned_variance and not learns_variance,
            f"diffusion.variance {method.variance!r} is not trained by diffusion.loss "
            f"{method.loss_name!r}: choose {' or '.join(losses.LEARN_VARIANCE)}.",
        ),
        (
            method.loss_name == "hybrid" and not method.learned_variance,
            "diffusion.loss 'hybrid' adds the VLB to train the variance, and "
            f"diffusion.variance {method.variance!r} is fixed: choose simple or vlb, "
            "or variance 'learned_range'.",
        ),
    )
    if learns_variance:  # its decoder cuts [-1, 1] into levels
        remedy = "set diffusion.loss=simple"
        check_range(method.field, f"diffusion.loss {method.loss_name!r}", remedy)
    _check_thresholding(method, method.thresholding)
    for condition in method.conditions:
        if not 0 <= condition.dropout < 1:
            raise ValueError(
                f"diffusion.cond_dropout must lie in [0, 1), not {condition.dropout}."
            )


def check_sampling(
    method: DDPM, options: Any, sampler: Sampler, timesteps: np.ndarray
) -> None:
    """Checks that sampling options are valid for a method.

    Args:
      method: the model to sample from.
      options: a tasks.SampleOptions.
      sampler: the sampler that the options name.
      timesteps: [N], decreasing.

    Raises:
      ValueError: they are not; the message names the config keys and a valid choice.
    """
    _check_thresholding(method, options.thresholding)
    num_steps, discrete = len(timesteps), timesteps.dtype.kind == "i"
    starts_in_noise = timesteps[0] == method.num_timesteps
    starts_in_noise = starts_in_noise and method.schedule.ends_in_noise
    continuous = sampler.continuous_time or not discrete
    interval = tuple(options.guidance_interval)
    drops = any(condition.dropout for condition in method.conditions)
    _raise_first(
        (
            not 0 <= options.num_frames <= options.num_steps,
            f"sample.num_frames must lie in 0..{options.num_steps} (sample.num_steps), "
            f"not {options.num_frames}.",
        ),
        (
            starts_in_noise and sampler.needs_signal,
            "The schedule leaves no signal at time T, and this sample.sampler cannot "
            "start from an infinite noise level: choose another sampler, spacing "
            f"'leading', or {WITH_SIGNAL}.",
        ),
        (
            process.PREDICTIONS[method.prediction].discrete_time and continuous,
            f"A network that predicts {method.prediction} is defined for steps from t "
            "to t - 1, and this sample.sampler or sample.spacing "
            f"({options.spacing!r}) visits times in between: choose another.",
        ),
        (
            method.variance == "learned"
            and options.sampler == "ancestral"
            and num_steps < method.num_timesteps,
            "diffusion.variance 'learned' is only valid for steps from t to t - 1: set "
            "sample.num_steps to num_timesteps, choose another sampler, or train with "
            "'learned_range', which works for any stride.",
        ),
        (
            not options.guidance_scale >= 0,
            f"sample.guidance_scale must be at least 0, not {options.guidance_scale}.",
        ),
        (
            options.guidance_scale != 1 and not drops,
            f"sample.guidance_scale = {options.guidance_scale} needs a network trained "
            "with and without its condition: train with diffusion.cond_dropout above 0 "
            "(and model.num_classes or model.caption_width), or set the scale to 1.",
        ),
        (
            options.cond_noise > 0 and method.condition(COND_IMAGE) is None,
            "sample.cond_noise adds noise to the image that a model is conditioned on, "
            "and this one has none: set it to 0.",
        ),
        (
            options.cond_noise > method.cond_noise,
            f"sample.cond_noise = {options.cond_noise} is more than the network was "
            f"trained with (diffusion.cond_noise = {method.cond_noise}): lower it.",
        ),
        (
            bool(interval) and (len(interval) != 2 or not interval[0] < interval[-1]),
            f"sample.guidance_interval = {interval} must be two log-SNRs, the smaller "
            "one first, or () to guide everywhere.",
        ),
    )


def _check_thresholding(method: DDPM, name: str) -> None:
    lookup(guidance.THRESHOLDING, name, "sample.thresholding")
    if name != "none":
        remedy = "set sample.thresholding=none"
        check_range(method.field, f"sample.thresholding {name!r}", remedy)


def _raise_first(*refusals: tuple[bool, str]) -> None:
    for refused, message in refusals:
        if refused:
            raise ValueError(message)

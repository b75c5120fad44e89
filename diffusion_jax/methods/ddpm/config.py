"""Denoising diffusion, put together from a config."""

import jax.numpy as jnp
import ml_collections

from diffusion_jax.diffusion import (
    losses,
    process,
    samplers,
    schedules,
    time_samplers,
    timesteps,
)
from diffusion_jax.methods.base import choose
from diffusion_jax.methods.ddpm import checks, tasks
from diffusion_jax.methods.ddpm.method import DDPM, GROUP, Sampling
from diffusion_jax.models import MODELS
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Phase


def make_ddpm(config: ml_collections.ConfigDict) -> DDPM:
    """Builds denoising diffusion from the groups model, diffusion, optim, sample."""
    data, diffusion = config.data, config.diffusion
    model = dict(config.model)
    network_class = choose(MODELS, model.pop("name"), "model.name")
    model["dtype"] = jnp.dtype(model["dtype"])
    variances = process.VARIANCES | process.LEARNED_VARIANCES
    choose(process.PREDICTIONS, diffusion.prediction, "diffusion.prediction")
    choose(variances, diffusion.variance, "diffusion.variance")
    choose(losses.LOSSES, diffusion.loss, "diffusion.loss")
    draw = choose(
        time_samplers.TIMESTEP_SAMPLERS,
        diffusion.timestep_sampler,
        "diffusion.timestep_sampler",
    )
    num_channels = data.num_channels
    if diffusion.variance in process.LEARNED_VARIANCES:
        num_channels *= 2
    _check_numbers(config)
    schedule = schedules.make(
        diffusion.schedule,
        diffusion.num_timesteps,
        data.image_size,
        diffusion.zero_terminal_snr,
    )
    method = DDPM(
        phases=(Phase("net", (GROUP,), optimizers.make(**config.optim)),),
        network=network_class(out_channels=num_channels, **model),
        image_shape=(data.image_size, data.image_size, data.num_channels),
        schedule=schedule,
        prediction=diffusion.prediction,
        loss_name=diffusion.loss,
        variance=diffusion.variance,
        timestep_sampler=draw,
        num_classes=model["num_classes"],
        cond_dropout=diffusion.cond_dropout,
        self_condition=diffusion.self_condition,
        sampling=make_sampling(config, schedule),
        num_terms=config.eval.num_terms,
        num_probes=config.eval.num_probes,
    )
    names = diffusion.schedule, diffusion.timestep_sampler, config.sample.spacing
    checks.check(method, *names)
    checks.check_guidance(method)
    tasks.check(config.sample.view, method)
    return method


def make_sampling(
    config: ml_collections.ConfigDict, schedule: schedules.Schedule
) -> Sampling:
    """Builds the way samples are drawn from the group sample."""
    options = config.sample
    return Sampling(
        sampler=samplers.make(
            options.sampler,
            config.diffusion.variance,
            eta=options.eta,
            churn=options.churn,
        ),
        knots=timesteps.make(options.spacing, schedule, options.num_steps),
        clip=options.clip,
        guidance_scale=options.guidance_scale,
        guidance_interval=tuple(options.guidance_interval),
        label=options.label,
        num_frames=options.num_frames,
        start=options.start,
        num_resamplings=options.num_resamplings,
    )


def _check_numbers(config: ml_collections.ConfigDict) -> None:
    sample, num_timesteps = config.sample, config.diffusion.num_timesteps
    if num_timesteps < 2:
        raise ValueError("diffusion.num_timesteps must be at least 2.")
    if not 1 <= config.eval.num_terms < num_timesteps:
        raise ValueError(
            f"eval.num_terms must lie in 1..{num_timesteps - 1} "
            f"(num_timesteps - 1), not {config.eval.num_terms}."
        )
    if not len(sample.guidance_interval) == 2:
        raise ValueError(
            "sample.guidance_interval is two log-SNRs, not "
            f"{tuple(sample.guidance_interval)}."
        )
    if sample.num_frames > sample.num_steps:
        raise ValueError(
            f"sample.num_frames = {sample.num_frames} are more than the predictions of "
            f"x_0 on the way, sample.num_steps = {sample.num_steps}."
        )
    for name, value, least in (
        ("sample.num_frames", sample.num_frames, 0),
        ("sample.guidance_scale", sample.guidance_scale, 0),
        ("eval.num_probes", config.eval.num_probes, 0),
        ("model.num_classes", config.model.num_classes, 0),
    ):
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, not {value}.")

"""Families: a network married to its mathematics, built from a config."""

import jax.numpy as jnp
import ml_collections

from diffusion_jax.diffusion import losses, process, samplers, schedules, times
from diffusion_jax.methods.base import Method, make_draw, make_evaluate
from diffusion_jax.methods.ddpm import DDPM, GROUP
from diffusion_jax.models import MODELS
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Phase

__all__ = ["METHODS", "Method", "make", "make_draw", "make_evaluate"]


def make(config: ml_collections.ConfigDict) -> Method:
    """Builds the family that the config names, and checks what can be checked.

    Raises:
      ValueError: a name is unknown or values do not go together; it says which.
      TypeError: a group of the config has a key too many or too few.
    """
    return _choose(METHODS, config.method, "method")(config)


def make_ddpm(config: ml_collections.ConfigDict) -> DDPM:
    """Builds denoising diffusion from the groups model, diffusion, optim, sample."""
    data, diffusion, sample = config.data, config.diffusion, config.sample
    model = dict(config.model)
    network_class = _choose(MODELS, model.pop("name"), "model.name")
    model["dtype"] = jnp.dtype(model["dtype"])
    _choose(process.PREDICTIONS, diffusion.prediction, "diffusion.prediction")
    _choose(process.VARIANCES, diffusion.variance, "diffusion.variance")
    _choose(losses.LOSSES, diffusion.loss, "diffusion.loss")
    make_sampler = _choose(samplers.SAMPLERS, sample.sampler, "sample.sampler")
    num_timesteps = diffusion.num_timesteps
    _check_numbers(config)
    schedule = schedules.make(diffusion.schedule, num_timesteps)
    betas = schedules.SCHEDULES[diffusion.schedule](num_timesteps)
    if schedules.alpha_bar(betas)[-1] == 0 and diffusion.prediction == "eps":
        raise ValueError(
            f"The schedule {diffusion.schedule!r} leaves no signal at time T, where a "
            "network that predicts eps cannot say what x_0 is: choose another "
            "diffusion.prediction (x0, v or mu)."
        )
    return DDPM(
        phases=(Phase("net", (GROUP,), optimizers.make(**config.optim)),),
        network=network_class(out_channels=data.num_channels, **model),
        image_shape=(data.image_size, data.image_size, data.num_channels),
        schedule=schedule,
        num_timesteps=num_timesteps,
        prediction=diffusion.prediction,
        loss_name=diffusion.loss,
        variance=diffusion.variance,
        sampler=make_sampler(variance=diffusion.variance, eta=sample.eta),
        knots=times.knots(sample.spacing, num_timesteps, sample.num_steps),
        clip=sample.clip,
        num_frames=sample.num_frames,
        num_terms=config.eval.num_terms,
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
    if sample.num_frames > sample.num_steps:
        raise ValueError(
            f"sample.num_frames = {sample.num_frames} are more than the predictions of "
            f"x_0 on the way, sample.num_steps = {sample.num_steps}."
        )
    for name, value in (
        ("sample.num_images", sample.num_images),
        ("sample.batch_size", sample.batch_size),
        ("eval.batch_size", config.eval.batch_size),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")


def _choose(table: dict, name: str, key: str):
    if name not in table:
        raise ValueError(f"Unknown {key} {name!r}. Known ones: {', '.join(table)}.")
    return table[name]


METHODS = {"ddpm": make_ddpm}

"""The config of diffusion models: its defaults, and the method built from it."""

import math

from ml_collections import ConfigDict, config_dict

from diffusion_jax.data.base import COND_IMAGE, label_field
from diffusion_jax.diffusion import guidance, losses, process, schedules, time_samplers
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import config as common
from diffusion_jax.methods.base import (
    Family,
    Fields,
    data_field,
    make_network,
    single_phase,
)
from diffusion_jax.methods.ddpm import checks, prompt_tasks, tasks
from diffusion_jax.methods.ddpm.conditions import Condition
from diffusion_jax.methods.ddpm.method import DDPM
from diffusion_jax.models import MODELS
from diffusion_jax.special_tokens import PAD

SIDE_OF_OTHERS = 64  # image side assumed for other data: no schedule is shifted


def defaults() -> ConfigDict:
    """Returns the settings of Ho et al. 2020 for CIFAR-10 (appendix B)."""
    config = common.defaults("ddpm")
    config.model = config_dict.create(
        name="unet",
        base_channels=128,  # at full resolution
        channel_multipliers=(1, 2, 2, 2),  # one per level; each halves the resolution
        num_blocks=2,  # residual blocks per level
        attention_resolutions=(16,),  # heights, in pixels
        dropout=0.0,  # rate, in [0, 1)
        num_classes=0,  # 0: unconditional
        dtype="float32",  # of activations, or bfloat16
        remat="none",  # computed again to save memory: none, elementwise, blocks
        caption_width=0,  # width of the caption encoder; 0: no captions
        caption_layers=2,  # layers of the caption encoder
        caption_heads=4,  # heads of its attention and of the cross-attention
        cond_image=False,  # condition on the field cond_image of the data
    )
    config.diffusion = config_dict.create(
        schedule="linear",  # a name in schedules.SCHEDULES or CURVES
        zero_terminal_snr=False,  # rescale the betas to pure noise at T
        num_timesteps=1000,  # T, at least 2
        prediction="eps",  # eps, x0, v, mu, score, edm
        loss="simple",  # simple, vlb, hybrid, continuous, min_snr, edm
        variance="fixedlarge",  # fixedsmall, fixedlarge, learned, learned_range
        timestep_sampler="uniform",  # a name in time_samplers.TIMESTEP_SAMPLERS
        cond_dropout=0.0,  # rate of training without class and caption, in [0, 1)
        cond_noise=0.0,  # highest level of noise added to cond_image, in [0, 1]
        self_condition=False,  # on the previous prediction of x_0
    )
    config.optim.update(
        learning_rate=2e-4,
        warmup_steps=5000,
        decay="cosine",
        clip="global",
        ema_decay=0.9999,
        ema_warmup=False,
    )
    common.add_caption_options(config)
    config.sample.update(
        sampler="ancestral",  # a name in samplers.SAMPLERS
        num_steps=1000,  # 1..num_timesteps
        spacing="leading",  # of timesteps: leading, trailing, quadratic, logsnr, karras
        eta=0.0,  # of ddim, in [0, 1]
        churn=0.0,  # of euler and heun, in [0, sqrt(2) - 1]
        thresholding="static",  # none, static, dynamic
        guidance_scale=1.0,  # 1: none
        guidance_interval=(),  # (lowest, highest) log-SNR; (): everywhere
        cond_noise=0.0,  # level of noise added to cond_image
        label=-1,  # the class to draw; -1: all in turn
        num_frames=0,  # predictions of x_0 to keep along the way
        strength=0.5,  # of img2img and interpolate: share of T, in (0, 1]
        num_resamplings=5,  # of inpaint: times each step is repeated
    )
    config.eval.update(
        metric="vlb",
        num_terms=20,  # of vlb: terms per example, 1..num_timesteps - 1
        num_probes=1,  # of ode_likelihood; 0: exact trace
        sweep=config_dict.create(
            sampler=(), num_steps=(), spacing=(), guidance_scale=(), cond_noise=()
        ),
    )
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    make_tiny(config)
    config.eval.num_terms = 4


def make_tiny(config: ConfigDict) -> None:
    """Makes the data, the network, and all but the evaluation small."""
    common.make_tiny(config)
    if config.model.get("caption_width"):
        config.data.source = "captions:digits"
    if config.model.get("cond_image"):
        config.data.source = f"low_res:2:{config.data.source}"
    make_tiny_model(config)
    config.optim.warmup_steps = 2
    config.sample.num_steps = 5


def make_tiny_model(config: ConfigDict) -> None:
    """Makes the network small, and the chain short."""
    # Blocks of the encoder; the decoder has one more at each level.
    config.model.update(base_channels=8, channel_multipliers=(1, 2), num_blocks=0)
    config.model.attention_resolutions = (4,)
    if config.model.get("caption_width"):
        config.model.update(caption_width=8, caption_heads=2, caption_layers=1)
    config.diffusion.num_timesteps = 20


def make(config: ConfigDict, fields: Fields) -> DDPM:
    """Builds a diffusion model from the groups model, diffusion and optim.

    Args:
      config: the run's config.
      fields: the fields of the data.

    Raises:
      ValueError: a name is unknown, or values contradict each other or the data.
    """
    diffusion = config.diffusion
    data, field = data_field(fields)
    variances = process.VARIANCES | process.LEARNED_VARIANCES
    thresholding = config.sample.thresholding
    lookup(process.PREDICTIONS, diffusion.prediction, "diffusion.prediction")
    lookup(variances, diffusion.variance, "diffusion.variance")
    lookup(losses.LOSSES, diffusion.loss, "diffusion.loss")
    lookup(guidance.THRESHOLDING, thresholding, "sample.thresholding")
    timestep_sampler = lookup(
        time_samplers.TIMESTEP_SAMPLERS,
        diffusion.timestep_sampler,
        "diffusion.timestep_sampler",
    )
    conditions = _conditions(config, fields)
    if diffusion.cond_dropout and not any(c.dropout for c in conditions):
        raise ValueError(
            f"diffusion.cond_dropout = {diffusion.cond_dropout} drops classes and "
            "captions, but model.num_classes = 0 and model.caption_width = 0: set one "
            "of them, or set cond_dropout to 0."
        )
    if diffusion.cond_noise and not config.model.get("cond_image"):
        raise ValueError(
            f"diffusion.cond_noise = {diffusion.cond_noise} adds noise to the image "
            "that the model is conditioned on, and there is none: set "
            "model.cond_image=True, or set cond_noise to 0."
        )
    if diffusion.loss == "continuous" and diffusion.timestep_sampler == "lognormal":
        raise ValueError(
            "diffusion.loss 'continuous' is an integral over uniform times, and "
            "diffusion.timestep_sampler 'lognormal' is not uniform: choose continuous, "
            "uniform or antithetic, or loss 'edm'."
        )
    learned = diffusion.variance in process.LEARNED_VARIANCES
    is_image = field.kind == "image"
    side = math.sqrt(math.prod(field.shape[:2])) if is_image else SIDE_OF_OTHERS
    options = {"out_channels": field.shape[-1] * (1 + learned)}
    if config.model.get("caption_width"):
        options["vocabulary_size"] = fields["caption"].size
    method = DDPM(
        phases=single_phase(config),
        network=make_network(MODELS, config, **options),
        data=data,
        field=field,
        schedule=schedules.make(
            diffusion.schedule,
            diffusion.num_timesteps,
            side,
            diffusion.zero_terminal_snr,
        ),
        prediction=diffusion.prediction,
        loss_name=diffusion.loss,
        variance=diffusion.variance,
        timestep_sampler=timestep_sampler,
        conditions=conditions,
        cond_noise=diffusion.cond_noise,
        self_condition=diffusion.self_condition,
        thresholding=thresholding,
    )
    checks.check_training(method)
    return method


def _conditions(config: ConfigDict, fields: Fields) -> tuple[Condition, ...]:
    """Returns what the network is conditioned on.

    Raises:
      ValueError: the data lack a field.
    """
    rate, num_classes = config.diffusion.cond_dropout, config.model.num_classes
    found = []
    if num_classes:
        field = label_field(num_classes)
        found.append(Condition("label", field, rate, null=num_classes))
    if config.model.get("caption_width"):
        if "caption" not in fields:
            raise ValueError(
                f"model.caption_width = {config.model.caption_width}, but "
                f"{config.data.source} has no captions: choose another data.source, "
                f"such as captions:{config.data.source}, or set it to 0."
            )
        found.append(Condition("caption", fields["caption"], rate, null=PAD))
    if config.model.get("cond_image"):
        if COND_IMAGE not in fields:
            raise ValueError(
                f"model.cond_image is True, but {config.data.source} has no field "
                f"{COND_IMAGE}: choose a paired data.source, such as "
                f"low_res:2:{config.data.source}, or set it to False."
            )
        found.append(Condition(COND_IMAGE, fields[COND_IMAGE]))
    return tuple(found)


FAMILY = Family(make, defaults, tasks.TASKS | prompt_tasks.TASKS)

r"""A model of your own pictures: what is not set here is planned from the folder.

    bash launch/local.sh configs/folder.py --config.data.source=folder:PATH
    bash launch/local.sh configs/folder.py:vae --config.data.source=folder:PATH
    bash launch/local.sh configs/folder.py:dcgan --config.data.source=folder:PATH
    bash launch/local.sh configs/folder.py:cyclegan \
        --config.data.source=folder:PATH --config.data.source_b=folder:OTHER
    bash launch/local.sh configs/folder.py:classifier --config.data.source=folder:PATH

The run prints its plan, with reasons, and then how long it takes. docs/own_pictures.md
has the details.
"""

from ml_collections import ConfigDict, config_dict

from diffusion_jax.methods import autoencoder, cyclegan, gan
from diffusion_jax.methods import classifier as classifiers
from diffusion_jax.methods.config import leave_open, select
from diffusion_jax.methods.ddpm import config as ddpm

TRAINING = """data.image_size data.num_channels data.batch_size optim.ema_decay
    train.num_steps train.log_every train.save_every train.evaluate_every eval.split"""
COMMON = f"{TRAINING} train.sample_every sample.num_examples sample.batch_size"
UNET = """model.base_channels model.channel_multipliers model.num_blocks
    model.attention_resolutions model.dropout model.num_classes model.dtype
    diffusion.cond_dropout optim.learning_rate optim.warmup_steps"""
RESNET = """model.base_channels model.num_blocks model.num_downsamplings
    model.disc_channels model.disc_layers model.dtype eval.split_b"""


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a family; "tiny" is a smoke test that takes seconds."""
    if variant in FAMILIES:
        return FAMILIES[variant]()
    others = "".join(f", {name}" for name in FAMILIES)
    return select(diffusion(), variant, ddpm.tiny, others)


def diffusion() -> ConfigDict:
    """A diffusion model; conditional if the folder has one subfolder per class."""
    config = ddpm.defaults()
    config.name = "folder"
    config.data.source = "folder:PATH"
    leave_open(config, f"{COMMON} {UNET}")
    config.diffusion.update(schedule="cosine", prediction="v")
    config.optim.ema_warmup = True
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.eval.update(metric="copying", batch_size=64)
    return config


def vae() -> ConfigDict:
    """A convolutional VAE."""
    config = autoencoder.vae_defaults()
    config.name = "folder_vae"
    config.data.source = "folder:PATH"
    config.model = config_dict.create(
        name="conv", channels=(), strides=(), num_latents=0
    )
    leave_open(config, f"{COMMON} model.channels model.strides model.num_latents")
    config.vae.update(likelihood="gaussian", noise_scale=0.2)
    config.eval.metric = "copying"
    return config


def dcgan() -> ConfigDict:
    """A DCGAN; conditional if the folder has one subfolder per class."""
    config = gan.defaults()
    config.name = "folder_dcgan"
    config.data.source = "folder:PATH"
    leave_open(config, f"{COMMON} model.width model.dtype model.num_classes")
    config.eval.metric = "copying"
    return config


def between_folders() -> ConfigDict:
    """A CycleGAN between the pictures of two folders."""
    config = cyclegan.defaults()
    config.name = "folder_cyclegan"
    config.data.update(source="folder:PATH", source_b="folder:PATH_B")
    leave_open(config, f"{COMMON} {RESNET}")
    return config


def classifier() -> ConfigDict:
    """A classifier of the subfolders, whose features measure samples."""
    config = classifiers.defaults()
    config.name = "folder_classifier"
    config.data.source = "folder:PATH"
    leave_open(config, f"{TRAINING} model.channels model.num_classes")
    return config


FAMILIES = {
    "vae": vae,
    "dcgan": dcgan,
    "cyclegan": between_folders,
    "classifier": classifier,
}

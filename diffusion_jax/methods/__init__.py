"""Families: a network married to its mathematics, built from a config."""

import ml_collections

from diffusion_jax.methods import autoencoder, classifier, cyclegan, gan
from diffusion_jax.methods.base import (
    Method,
    check_positive,
    choose,
    make_draw,
    make_evaluate,
    make_measure,
    make_settle,
)
from diffusion_jax.methods.ddpm import config

__all__ = [
    "METHODS",
    "Method",
    "make",
    "make_draw",
    "make_evaluate",
    "make_measure",
    "make_settle",
]


def make(config: ml_collections.ConfigDict) -> Method:
    """Builds the family that the config names, and checks what can be checked.

    Raises:
      ValueError: a name is unknown or values do not go together; it says which.
      TypeError: a group of the config has a key too many or too few.
    """
    make_family = choose(METHODS, config.method, "method")
    for group, name in SIZES:
        if name in config[group]:
            check_positive(**{f"{group}__{name}": config[group][name]})
    return make_family(config)


SIZES = (("sample", "num_images"), ("sample", "batch_size"), ("eval", "batch_size"))


METHODS = {
    "ddpm": config.make_ddpm,
    "autoencoder": autoencoder.make_autoencoder,
    "vae": autoencoder.make_vae,
    "gan": gan.make_gan,
    "cyclegan": cyclegan.make_cyclegan,
    "classifier": classifier.make_classifier,
}

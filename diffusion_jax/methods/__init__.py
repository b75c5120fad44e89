"""Families: a network married to its mathematics, built from a config."""

import ml_collections

from diffusion_jax.methods import autoencoder, classifier, cyclegan, ddpm_config, gan
from diffusion_jax.methods.base import (
    Method,
    choose,
    make_draw,
    make_evaluate,
    make_measure,
    make_settle,
)

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
    return choose(METHODS, config.method, "method")(config)


METHODS = {
    "ddpm": ddpm_config.make_ddpm,
    "autoencoder": autoencoder.make_autoencoder,
    "vae": autoencoder.make_vae,
    "gan": gan.make_gan,
    "cyclegan": cyclegan.make_cyclegan,
    "classifier": classifier.make_classifier,
}

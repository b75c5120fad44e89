"""Autoencoder with two latents on scikit-learn's 8x8 digits.

    python -m diffusion_jax.main --config=configs/digits_autoencoder.py

Foster 2019, Generative Deep Learning, chapter 3, scaled down.
Result: squared error 0.0350 on held-out images (two principal components: 0.0511).
Time: seconds on a CPU.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import autoencoder
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = autoencoder.autoencoder_defaults()
    config.name = "digits_autoencoder"
    config.model.update(hidden=(256, 128), num_latents=2)
    config.train.update(
        num_steps=3000, save_every=1500, evaluate_every=1500, sample_every=3000
    )
    decay_over_second_half(config)
    config.eval.classifier = "runs/digits_classifier"
    return select(config, variant, autoencoder.tiny)

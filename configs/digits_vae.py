"""VAE on scikit-learn's 8x8 digits.

    python -m diffusion_jax.main --config=configs/digits_vae.py

Kingma and Welling 2014, arXiv:1312.6114.
Result: FD of digits_classifier 41.9 (1000 samples).
Time: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import autoencoder
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = autoencoder.vae_defaults()
    config.name = "digits_vae"
    config.model.update(hidden=(256,), num_latents=10)
    config.train.update(
        num_steps=3000, save_every=1500, evaluate_every=1500, sample_every=3000
    )
    decay_over_second_half(config)
    config.eval.classifier = "runs/digits_classifier"
    return select(config, variant, autoencoder.tiny)

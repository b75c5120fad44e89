"""VQ-VAE of composed pictures of digits, 24x24 pixels: 12x12 codes out of 64.

    python -m diffusion_jax.main --config=configs/composed_dvae.py

The autoencoder of configs/composed_dalle.py.
Result: PSNR 29.3 dB; composed_classifier sees the right class of the first object in
97.3 % of the reconstructions, and in 98.1 % of held-out pictures; all codes are used.
(--mode=evaluate --config.eval.classifier=runs/composed_classifier)
Time: 12 minutes on one core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dvae
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dvae.defaults()
    config.name = "composed_dvae"
    config.data.update(source="composed:digits", image_size=24, batch_size=64)
    config.model.update(name="vq", num_codes=64, num_features=32, width=64)
    config.model.num_downsamplings = 1
    config.dvae.update(likelihood="gaussian", noise_scale=0.1)
    config.train.update(num_steps=2000, evaluate_every=1000, sample_every=2000)
    decay_over_second_half(config)
    return select(config, variant, dvae.tiny)

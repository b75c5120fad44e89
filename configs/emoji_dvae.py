"""VQ-VAE of emoji, 32x32 pixels: 8x8 codes out of 256, for emoji_dalle.

    python -m diffusion_jax.main --config=configs/emoji_dvae.py

Data: as for emoji_captions16.
Result: PSNR 21.9 dB on held-out pictures; all codes are used, perplexity 213. A dVAE
with 512 codes used 7 % of them after 500 steps (perplexity 13, 18.3 dB).
Time: 20 minutes on one core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dvae
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dvae.defaults()
    config.name = "emoji_dvae"
    config.data.update(source="emoji", image_size=32, num_channels=3, batch_size=64)
    config.model.update(name="vq", num_codes=256, num_features=64, width=64)
    config.model.num_downsamplings = 2
    config.dvae.update(likelihood="gaussian", noise_scale=0.1)
    config.train.update(num_steps=2000, evaluate_every=500, sample_every=2000)
    decay_over_second_half(config)
    return select(config, variant, dvae.tiny)

"""dVAE of emoji, 32x32 pixels: 8x8 codes out of 512, for emoji_dalle.

    python -m diffusion_jax.main --config=configs/emoji_dvae.py

Data: as for emoji_captions16. Result: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dvae
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dvae.defaults()
    config.name = "emoji_dvae"
    config.data.update(source="emoji", image_size=32, num_channels=3, batch_size=64)
    config.model.update(num_codes=512, num_features=64, width=64, num_downsamplings=2)
    config.dvae.update(likelihood="gaussian", noise_scale=0.1)
    config.dvae.update(temperature_steps=3000, kl_weight=1.0, kl_warmup_steps=1000)
    config.train.update(num_steps=4000, evaluate_every=2000, sample_every=4000)
    decay_over_second_half(config)
    return select(config, variant, dvae.tiny)

r"""DALL-E of emoji, over the codes of emoji_dvae.

    bash launch/local.sh configs/emoji_dvae.py
    bash launch/local.sh configs/emoji_dalle.py
    bash launch/local.sh configs/emoji_dalle.py --mode=sample \
        --config.sample.prompt="red heart|grinning cat"

Result: of 80 held-out combinations of role, gender and skin tone, a separate scorer
finds the caption of 38 % (with guidance of scale 2: 41 %).
Time: about 31 minutes on one core, after 20 of emoji_dvae.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dalle
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dalle.defaults()
    config.name = "emoji_dalle"
    config.data.update(source="emoji", image_size=32, num_channels=3, batch_size=64)
    config.model.update(width=192, dropout=0.3)
    config.dvae_model.update(name="vq", num_codes=256, num_features=64, width=64)
    config.dvae_model.num_downsamplings = 2
    config.dvae.update(likelihood="gaussian", noise_scale=0.1)
    config.dalle.cond_dropout = 0.1
    config.optim.update(warmup_steps=200, ema_decay=0.995)
    config.train.update(num_steps=1200, log_every=200)
    config.train.update(sample_every=1200, init_from="dvae=runs/emoji_dvae")
    decay_over_second_half(config)
    return select(config, variant, dalle.tiny)

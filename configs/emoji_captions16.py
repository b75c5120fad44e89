"""Diffusion of emoji, 16x16 pixels, conditioned on their names: a cascade's base.

    python -m diffusion_jax.main --config=configs/emoji_captions16.py

Data: apt-get install fonts-noto-color-emoji; pip install -e '.[emoji]'
Result: docs/text_to_image.md. Time: about 43 minutes on one core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "emoji_captions16"
    config.data.update(source="emoji", image_size=16, num_channels=3, batch_size=64)
    config.model.update(
        base_channels=32,
        num_blocks=1,
        channel_multipliers=(1, 2, 4),
        attention_resolutions=(8, 4),
        caption_width=64,
        dropout=0.1,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_dropout=0.1)
    config.optim.update(
        learning_rate=0.001, warmup_steps=200, ema_decay=0.999, ema_warmup=True
    )
    config.train.update(num_steps=3000, log_every=200, sample_every=1000)
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.eval.metric = "samples"
    return select(config, variant, ddpm.tiny)

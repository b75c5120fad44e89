r"""Diffusion of emoji, 32x32 pixels, conditioned on their names, without a cascade.

    bash launch/local.sh configs/emoji_captions.py
    bash launch/local.sh configs/emoji_captions.py --mode=sample \
        --config.sample.prompt="red heart|grinning cat"

Data: as for emoji_captions16. Result: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "emoji_captions"
    config.data.update(source="emoji", image_size=32, num_channels=3, batch_size=64)
    config.model.update(
        base_channels=24,
        num_blocks=1,
        channel_multipliers=(1, 2, 4),
        attention_resolutions=(8,),
        caption_width=64,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_dropout=0.1)
    config.optim.update(
        learning_rate=0.001, warmup_steps=200, ema_decay=0.999, ema_warmup=True
    )
    config.train.update(num_steps=4000, log_every=200, sample_every=2000)
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.eval.metric = "samples"
    return select(config, variant, ddpm.tiny)

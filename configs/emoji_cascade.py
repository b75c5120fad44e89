r"""A cascade of emoji: emoji_captions16 and emoji_upsampler, assembled in one step.

    bash launch/local.sh configs/emoji_captions16.py
    bash launch/local.sh configs/emoji_upsampler.py
    bash launch/local.sh configs/emoji_cascade.py
    bash launch/local.sh configs/emoji_cascade.py --mode=sample \
        --config.sample.task=stages --config.sample.prompt="red heart|grinning cat"

Result: of 80 held-out combinations of role, gender and skin tone, a separate scorer
finds the caption of 80 % (with guidance of scale 3: 84 %; of real pictures 98 %).
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import cascade
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = cascade.defaults()
    config.name = "emoji_cascade"
    config.data.update(source="emoji", image_size=32, num_channels=3, batch_size=32)
    config.model.update(  # as in emoji_captions16
        base_channels=32,
        num_blocks=1,
        channel_multipliers=(1, 2, 4),
        attention_resolutions=(8, 4),
        caption_width=64,
        dropout=0.1,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_dropout=0.1)
    config.upsampler.model.update(  # as in emoji_upsampler
        base_channels=24,
        num_blocks=1,
        channel_multipliers=(1, 2, 3),
        attention_resolutions=(8,),
    )
    config.upsampler.diffusion.update(schedule="cosine", prediction="v", cond_noise=0.5)
    config.cascade.trained = ()
    config.optim.warmup_steps = 0
    config.train.update(
        num_steps=1,
        init_from="base:net=runs/emoji_captions16,upsampler:net=runs/emoji_upsampler",
    )
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.sample.cond_noise = 0.1
    return select(config, variant, cascade.tiny)

r"""A scorer of emoji and their names, a small CLIP.

    bash launch/local.sh configs/emoji_contrastive.py
    bash launch/local.sh configs/emoji_contrastive.py --mode=evaluate \
        --config.eval.split=unseen

Data: as for emoji_captions16.
Result (seed 1): the name of a picture is found in 97.5 % of 80 held-out combinations,
and among 100 in 63.2 % of held-out names.
Time: five minutes on one core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import contrastive
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = contrastive.defaults()
    config.name = "emoji_contrastive"
    config.data.update(source="emoji", image_size=32, num_channels=3)
    config.model.update(channels=(32, 64, 64), caption_width=128)
    config.optim.warmup_steps = 100
    config.train.log_every = 100
    decay_over_second_half(config)
    return select(config, variant, contrastive.tiny)

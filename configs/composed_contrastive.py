r"""A scorer of composed pictures and their captions, a small CLIP.

    bash launch/local.sh configs/composed_contrastive.py
    bash launch/local.sh configs/composed_contrastive.py --mode=evaluate \
        --config.eval.split=unseen

Result: finds the caption among 100 for 97.3 % of the pictures of split test, and for
83.7 % of those of unseen combinations.
Time: about eight minutes of CPU time.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import contrastive
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = contrastive.defaults()
    config.name = "composed_contrastive"
    config.data.update(source="composed:digits", image_size=24)
    config.model.update(channels=(32, 64, 64), caption_width=128)
    config.optim.warmup_steps = 100
    config.train.update(num_steps=3000, log_every=250, save_every=1500)
    decay_over_second_half(config)
    return select(config, variant, contrastive.tiny)

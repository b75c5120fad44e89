r"""Diffusion of composed pictures, 24x24 pixels, conditioned on their captions.

    bash launch/local.sh configs/composed_captions.py
    bash launch/local.sh configs/composed_captions.py --mode=sample \
        --config.sample.prompt="a small three left of a large inverted seven"

Result: 98.6, 96.7, 98.1 % of the classes are as the caption says, 98.5, 97.4, 97.4 % in
unseen combinations (seeds 0, 1, 2); sizes, polarities and positions at least 99.9 %.
Time: about 40 minutes on one core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "composed_captions"
    config.data.update(source="composed:digits", image_size=24, batch_size=64)
    config.model.update(
        base_channels=16,
        num_blocks=1,
        channel_multipliers=(1, 2, 4),
        attention_resolutions=(6,),
        caption_width=64,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_dropout=0.1)
    config.optim.update(
        learning_rate=0.001, warmup_steps=500, ema_decay=0.999, ema_warmup=True
    )
    config.train.update(num_steps=4000, log_every=200, sample_every=2000)
    config.sample.update(num_steps=25, sampler="ddim", spacing="trailing")
    config.sample.update(num_examples=200, guidance_scale=3.0)
    config.eval.update(metric="samples", classifier="runs/composed_classifier")
    return select(config, variant, ddpm.tiny)

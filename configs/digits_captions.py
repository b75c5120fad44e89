r"""Diffusion of digits conditioned on captions, such as "a picture of a seven".

    bash launch/local.sh configs/digits_captions.py
    bash launch/local.sh configs/digits_captions.py --mode=sample \
        --config.sample.prompt="a seven|the digit two"

Result: 97.3, 97.3, 97.5 % of 2,000 samples show the digit of their caption (seeds 0, 1,
2), FD of pixels 0.093, 0.089, 0.093.
Time: three minutes of CPU time.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "digits_captions"
    config.data.update(source="captions:digits", batch_size=64)
    config.model.update(
        base_channels=32,
        num_blocks=1,
        channel_multipliers=(1, 2),
        attention_resolutions=(4,),
        caption_width=64,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_dropout=0.1)
    config.optim.update(
        learning_rate=0.002, warmup_steps=50, ema_decay=0.995, ema_warmup=True
    )
    config.train.update(
        num_steps=1200, log_every=100, save_every=400, sample_every=1200
    )
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.sample.num_examples = 200
    config.eval.update(metric="samples", classifier="runs/digits_classifier")
    return select(config, variant, ddpm.tiny)

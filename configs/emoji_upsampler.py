r"""Super-resolution of emoji, 16x16 to 32x32 pixels: emoji_cascade's second stage.

    python -m diffusion_jax.main --config=configs/emoji_upsampler.py
    python -m diffusion_jax.main --config=configs/emoji_upsampler.py --mode=sample \
        --config.sample.task=translate --config.sample.num_examples=16

Data: as for emoji_captions16. Result: docs/text_to_image.md.
Time: about 21 minutes on one core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "emoji_upsampler"
    config.data.update(
        source="low_res:2:emoji", image_size=32, num_channels=3, batch_size=32
    )
    config.model.update(
        base_channels=24,
        num_blocks=1,
        channel_multipliers=(1, 2, 3),
        attention_resolutions=(8,),
        cond_image=True,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_noise=0.5)
    config.optim.update(
        learning_rate=0.001, warmup_steps=200, ema_decay=0.999, ema_warmup=True
    )
    config.train.update(num_steps=1500, log_every=200, sample_every=500)
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.eval.metric = "samples"
    return select(config, variant, ddpm.tiny)

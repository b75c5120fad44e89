"""DDPM on scikit-learn's 8x8 digits: the first run for a newcomer.

    bash launch/local.sh configs/digits.py

Result: FD of pixels 0.079, FD of digits_classifier 4.55 (1797 samples).
Time: 90 s of training, 128 s with compilation, on two CPU cores.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "digits"
    config.data.batch_size = 32
    config.model.update(
        base_channels=32,
        num_blocks=1,
        channel_multipliers=(1, 2),
        attention_resolutions=(4,),
    )
    config.diffusion.update(schedule="cosine", prediction="v")
    config.optim.update(
        learning_rate=0.002, warmup_steps=50, ema_decay=0.995, ema_warmup=True
    )
    config.train.update(
        num_steps=1200, log_every=100, save_every=400, sample_every=1200
    )
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.eval.classifier = "runs/digits_classifier"
    return select(config, variant, ddpm.tiny)

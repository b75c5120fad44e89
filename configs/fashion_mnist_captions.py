r"""Diffusion of Fashion-MNIST, 28x28, conditioned on captions. Result: not measured.

    bash launch/local.sh configs/fashion_mnist_captions.py
    bash launch/local.sh configs/fashion_mnist_captions.py --mode=sample \
        --config.sample.prompt="a coat|a picture of a sandal"

Data: apt-get install dataset-fashion-mnist.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "fashion_mnist_captions"
    config.data.update(
        source="captions:idx:/usr/share/datasets/fashion-mnist",
        image_size=28,
        batch_size=32,
    )
    config.model.update(
        base_channels=24,
        num_blocks=1,
        channel_multipliers=(1, 2, 2),
        attention_resolutions=(7,),
        caption_width=64,
    )
    config.diffusion.update(schedule="cosine", prediction="v", cond_dropout=0.1)
    config.optim.update(
        learning_rate=0.002, warmup_steps=200, ema_decay=0.999, ema_warmup=True
    )
    config.train.update(num_steps=6400, log_every=100, save_every=400)
    config.train.sample_every = 1600
    config.sample.update(num_steps=50, sampler="ddim", spacing="trailing")
    config.eval.update(metric="samples", classifier="runs/fashion_mnist_classifier")
    return select(config, variant, ddpm.tiny)

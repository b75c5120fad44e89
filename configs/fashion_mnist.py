"""DDPM on Fashion-MNIST, 28x28.

    python -m diffusion_jax.main --config=configs/fashion_mnist.py

Data: apt-get install dataset-fashion-mnist, or point data.source at any folder with
files in MNIST's format: --config.data.source=idx:PATH.
Result: 3.501 bits/dim on the test set.
Time: 74 minutes on one CPU core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "fashion_mnist"
    config.data.update(
        source="idx:/usr/share/datasets/fashion-mnist",
        image_size=28,
        batch_size=32,
        flip=True,
    )
    config.model.update(
        base_channels=24,
        num_blocks=1,
        channel_multipliers=(1, 2, 2),
        attention_resolutions=(7,),
    )
    config.diffusion.update(schedule="cosine", prediction="v")
    config.optim.update(
        learning_rate=0.002,
        warmup_steps=200,
        decay_end=6400,
        ema_decay=0.999,
        ema_warmup=True,
    )
    config.train.update(
        num_steps=6400, log_every=100, save_every=400, sample_every=1600
    )
    config.sample.update(num_steps=50, sampler="ddim")
    config.eval.update(classifier="runs/fashion_mnist_classifier", num_terms=5)
    return select(config, variant, ddpm.tiny)

"""Convolutional autoencoder with two latents on Fashion-MNIST.

    python -m diffusion_jax.main --config=configs/fashion_mnist_autoencoder.py

Network, learning rate and batch size of Foster 2019, Generative Deep Learning,
chapter 3.
Data: apt-get install dataset-fashion-mnist, or point data.source at any folder with
files in MNIST's format: --config.data.source=idx:PATH.
Result: squared error 0.0276 on held-out images (two principal components: 0.0461).
Time: 11 minutes on one CPU core.
"""

from ml_collections import ConfigDict, config_dict

from diffusion_jax.methods import autoencoder
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = autoencoder.autoencoder_defaults()
    config.name = "fashion_mnist_autoencoder"
    config.data.update(
        source="idx:/usr/share/datasets/fashion-mnist", image_size=28, batch_size=32
    )
    config.model = config_dict.create(
        name="conv", channels=(32, 64, 64, 64), strides=(1, 2, 2, 1), num_latents=2
    )
    config.optim.learning_rate = 0.0005
    config.train.update(
        num_steps=7500, save_every=1500, evaluate_every=3750, sample_every=7500
    )
    decay_over_second_half(config)
    config.eval.classifier = "runs/fashion_mnist_classifier"
    return select(config, variant, autoencoder.tiny)

"""A convolutional autoencoder of Fashion-MNIST, two numbers a picture.

    python -m diffusion_jax.main --config=configs/fashion_mnist_autoencoder.py

Foster 2019, Generative Deep Learning, chapter 3: its network, rate and batch.
Data: apt-get install dataset-fashion-mnist (70,000 pictures, under /usr/share), or any
folder of MNIST-format files: --config.data.source=idx:PATH.
Expected: see the README.
"""

from ml_collections import ConfigDict, config_dict

from diffusion_jax.methods import autoencoder
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
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

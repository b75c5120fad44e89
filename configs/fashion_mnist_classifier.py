"""A classifier of Fashion-MNIST, whose features measure samples.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py

Its folder is what eval.classifier of other configs names.
Data: apt-get install dataset-fashion-mnist (70,000 pictures, under /usr/share), or any
folder of MNIST-format files: --config.data.source=idx:PATH.
Expected: see the README.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import classifier
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = classifier.defaults()
    config.name = "fashion_mnist_classifier"
    config.data.update(
        source="idx:/usr/share/datasets/fashion-mnist", image_size=28, batch_size=128
    )
    config.model.channels = (32, 64, 64)
    config.train.update(num_steps=3000, save_every=3000, evaluate_every=3000)
    decay_over_second_half(config)
    return select(config, variant, classifier.tiny)

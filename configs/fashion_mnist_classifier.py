"""Classifier of Fashion-MNIST; its features are used to evaluate samples.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py

The eval.classifier of other configs points at this run's folder.
Data: apt-get install dataset-fashion-mnist, or point data.source at any folder with
files in MNIST's format: --config.data.source=idx:PATH.
Result: 91.0 % accuracy on the test set.
Time: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import classifier
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = classifier.defaults()
    config.name = "fashion_mnist_classifier"
    config.data.update(
        source="idx:/usr/share/datasets/fashion-mnist", image_size=28, batch_size=128
    )
    config.model.channels = (32, 64, 64)
    config.train.update(num_steps=3000, save_every=3000, evaluate_every=3000)
    decay_over_second_half(config)
    return select(config, variant, classifier.tiny)

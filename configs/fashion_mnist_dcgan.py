"""DCGAN on Fashion-MNIST, 28x28.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py
    python -m diffusion_jax.main --config=configs/fashion_mnist_dcgan.py

Radford et al. 2016, arXiv:1511.06434, scaled down.
Data: apt-get install dataset-fashion-mnist, or point data.source at any folder with
files in MNIST's format: --config.data.source=idx:PATH.
Result: FD of fashion_mnist_classifier 8.09, smallest class 7.8 % (10,000 samples).
Time: 22 minutes on one CPU core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import gan
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = gan.defaults()
    config.name = "fashion_mnist_dcgan"
    config.data.update(source="idx:/usr/share/datasets/fashion-mnist", image_size=28)
    config.model.width = 32
    config.optim.ema_decay = 0.999
    config.train.update(
        num_steps=8000, save_every=4000, evaluate_every=4000, sample_every=8000
    )
    config.sample.update(batch_size=500, num_examples=10_000)
    config.eval.classifier = "runs/fashion_mnist_classifier"
    return select(config, variant, gan.tiny)

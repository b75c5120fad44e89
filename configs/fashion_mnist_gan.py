"""GAN with dense layers on Fashion-MNIST: the baseline for DCGAN.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py
    python -m diffusion_jax.main --config=configs/fashion_mnist_gan.py

Goodfellow et al. 2014, arXiv:1406.2661.
Data: apt-get install dataset-fashion-mnist, or point data.source at any folder with
files in MNIST's format: --config.data.source=idx:PATH.
Result: FD of fashion_mnist_classifier 12.9, smallest class 7.3 % (10,000 samples).
Time: not measured.
"""

from ml_collections import ConfigDict, config_dict

from diffusion_jax.methods import gan
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = gan.defaults()
    config.name = "fashion_mnist_gan"
    config.data.update(source="idx:/usr/share/datasets/fashion-mnist", image_size=28)
    config.model = config_dict.create(
        name="mlp", hidden=(256, 512), bounded=True, num_classes=0
    )
    config.optim.ema_decay = 0.999
    config.train.update(
        num_steps=15_000, save_every=7500, evaluate_every=7500, sample_every=15_000
    )
    config.sample.update(batch_size=500, num_examples=10_000)
    config.eval.classifier = "runs/fashion_mnist_classifier"
    return select(config, variant, gan.tiny)

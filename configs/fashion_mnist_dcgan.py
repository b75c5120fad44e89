"""DCGAN of Fashion-MNIST, 28x28, for a CPU.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py
    python -m diffusion_jax.main --config=configs/fashion_mnist_dcgan.py

Radford et al. 2016, arXiv:1511.06434, in small.
Data: apt-get install dataset-fashion-mnist (70,000 pictures, under /usr/share), or any
folder of MNIST-format files: --config.data.source=idx:PATH.
Expected: see the README.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import gan
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = gan.defaults()
    config.name = "fashion_mnist_dcgan"
    config.data.update(source="idx:/usr/share/datasets/fashion-mnist", image_size=28)
    config.model.width = 32
    config.optim.ema_decay = 0.999
    config.train.update(
        num_steps=8000, save_every=4000, evaluate_every=4000, sample_every=8000
    )
    config.sample.update(batch_size=500, num_images=10_000)
    config.eval.classifier = "runs/fashion_mnist_classifier"
    return select(config, variant, gan.tiny)

"""VAE on Fashion-MNIST, 784-500-20-500-784.

    python -m diffusion_jax.main --config=configs/fashion_mnist_vae.py

Kingma and Welling 2014, arXiv:1312.6114. Each pixel is redrawn from a Bernoulli in
every step and evaluation. 40 epochs.
Data: apt-get install dataset-fashion-mnist, or point data.source at any folder with
files in MNIST's format: --config.data.source=idx:PATH.
Result: negative ELBO 237.5 nats; importance-weighted, 100 draws: 234.7 nats.
Time: 5 minutes on one CPU core.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import autoencoder
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = autoencoder.vae_defaults()
    config.name = "fashion_mnist_vae"
    config.data.update(source="idx:/usr/share/datasets/fashion-mnist", image_size=28)
    config.vae.binarize = True
    config.train.update(
        num_steps=18_760, save_every=4690, evaluate_every=9380, sample_every=18_760
    )
    decay_over_second_half(config)
    config.eval.classifier = "runs/fashion_mnist_classifier"
    return select(config, variant, autoencoder.tiny)

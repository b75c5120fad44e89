"""VAE on MNIST, 784-500-20-500-784.

    python -m diffusion_jax.main --config=configs/mnist_vae.py

Kingma and Welling 2014, arXiv:1312.6114. Each pixel is redrawn from a Bernoulli in
every step and evaluation. 40 epochs.
Data: tfds build mnist --file_format=array_record (see docs/data.md).
Result: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import autoencoder
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = autoencoder.vae_defaults()
    config.name = "mnist_vae"
    config.data.update(source="tfds:mnist", image_size=28)
    config.vae.binarize = True
    config.train.update(
        num_steps=18_760, save_every=4690, evaluate_every=9380, sample_every=18_760
    )
    decay_over_second_half(config)
    return select(config, variant, autoencoder.tiny)

"""DCGAN on CIFAR-10, 32x32.

    python -m diffusion_jax.main --config=configs/cifar10_dcgan.py

Networks, initialisation, learning rate and batch size of Radford et al. 2016,
arXiv:1511.06434.
Data: tfds build cifar10 --file_format=array_record (see docs/data.md).
Result: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import gan
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = gan.defaults()
    config.name = "cifar10_dcgan"
    config.data.update(source="tfds:cifar10", image_size=32, num_channels=3, flip=True)
    config.model.width = 64
    config.optim.ema_decay = 0.999
    config.train.update(
        num_steps=78_200, log_every=100, save_every=5000, sample_every=5000
    )
    config.sample.update(batch_size=64, num_examples=64)
    return select(config, variant, gan.tiny)

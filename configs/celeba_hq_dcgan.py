"""DCGAN on CelebA-HQ, 128x128.

    python -m diffusion_jax.main --config=configs/celeba_hq_dcgan.py

Networks, initialisation, learning rate and batch size of Radford et al. 2016,
arXiv:1511.06434.
Data: tfds build celeb_a_hq/128 --file_format=array_record (see docs/data.md).
TFDS asks you to download the archives by hand. There is no test split.
Result: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import gan
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = gan.defaults()
    config.name = "celeba_hq_dcgan"
    config.data.update(
        source="tfds:celeb_a_hq/128", image_size=128, num_channels=3, flip=True
    )
    config.model.update(width=64, dtype="bfloat16")
    config.optim.ema_decay = 0.999
    config.train.update(
        num_steps=40_000, log_every=100, save_every=5000, sample_every=5000
    )
    config.sample.update(batch_size=64, num_examples=64)
    config.eval.split = "train"
    return select(config, variant, gan.tiny)

"""CycleGAN between horses and zebras, 256x256.

    python -m diffusion_jax.main --config=configs/horse2zebra_cyclegan.py

Networks, loss weights, image pool and learning rate schedule of Zhu et al. 2017,
arXiv:1703.10593: a constant rate for 100 epochs of the larger domain, then a linear
decay to 0 over another 100.
Data: tfds build cycle_gan/horse2zebra --file_format=array_record (see docs/data.md).
Result: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import cyclegan
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = cyclegan.defaults()
    config.name = "horse2zebra_cyclegan"
    config.data.update(
        source="tfds:cycle_gan/horse2zebra",
        train_split="trainA",
        image_size=256,
        num_channels=3,
        batch_size=1,
        flip=True,
        source_b="tfds:cycle_gan/horse2zebra",
        train_split_b="trainB",
    )
    config.model.dtype = "bfloat16"
    config.train.update(
        num_steps=266_800, log_every=100, save_every=5000, sample_every=5000
    )
    decay_over_second_half(config)
    config.sample.update(batch_size=8, num_examples=16)
    config.eval.update(split="testA", batch_size=8, split_b="testB")
    return select(config, variant, cyclegan.tiny)

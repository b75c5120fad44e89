"""DDPM on CelebA-HQ, 256x256, as in Ho et al. 2020: 113,673,219 parameters.

    python -m diffusion_jax.main --config=configs/celeba_hq256.py

Data: tfds build celeb_a_hq/256 --file_format=array_record (see docs/data.md).
TFDS asks you to download the archives by hand. There is no test split.
Result: not measured. Paper: no FID given.
Time: 0.5M steps at 2.2 steps per second on a TPU v3-8 (paper).
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "celeba_hq256"
    config.data.update(
        source="tfds:celeb_a_hq/256",
        image_size=256,
        num_channels=3,
        batch_size=64,
        flip=True,
    )
    config.model.update(channel_multipliers=(1, 1, 2, 2, 4, 4), dtype="bfloat16")
    config.diffusion.variance = "fixedsmall"
    config.optim.update(learning_rate=2e-5, clip="per_replica")
    config.train.update(
        num_steps=500_000, log_every=100, save_every=10_000, sample_every=10_000
    )
    config.sample.update(batch_size=16, num_examples=16)
    config.eval.update(split="train", batch_size=16)
    return select(config, variant, ddpm.tiny)

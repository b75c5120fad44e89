"""DDPM on LSUN Bedroom, 256x256, as in Ho et al. 2020: 113,673,219 parameters.

    python -m diffusion_jax.main --config=configs/lsun_bedroom256.py

Data: tfds build lsun/bedroom --file_format=array_record (see docs/data.md).
Images are resized to a short side of 256 pixels and centre-cropped.
Result: not measured. Paper: FID 6.36.
Time: 2.4M steps at 2.2 steps per second on a TPU v3-8 (paper).
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "lsun_bedroom256"
    config.data.update(
        source="tfds:lsun/bedroom", image_size=256, num_channels=3, batch_size=64
    )
    config.model.update(channel_multipliers=(1, 1, 2, 2, 4, 4), dtype="bfloat16")
    config.diffusion.variance = "fixedsmall"
    config.optim.update(learning_rate=2e-5, clip="per_replica")
    config.train.update(
        num_steps=2_400_000, log_every=100, save_every=10_000, sample_every=10_000
    )
    config.sample.update(batch_size=16, num_examples=16)
    config.eval.update(split="validation", batch_size=16)
    return select(config, variant, ddpm.tiny)

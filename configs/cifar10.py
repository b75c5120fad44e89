"""DDPM on CIFAR-10, 32x32, as in Ho et al. 2020, appendix B: 35,746,307 parameters.

    python -m diffusion_jax.main --config=configs/cifar10.py

Gradients are clipped on each device ("per_replica"), as in the authors' code; this
equals the paper's setting with 16 images per device (8 devices).
Data: tfds build cifar10 --file_format=array_record (see docs/data.md).
Result: not measured. Paper: FID 3.17, at most 3.75 bits/dim.
Time: 10.6 hours for 800k steps on a TPU v3-8 (paper).
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "cifar10"
    config.data.update(source="tfds:cifar10", image_size=32, num_channels=3, flip=True)
    config.model.dropout = 0.1
    config.optim.clip = "per_replica"
    config.train.update(
        num_steps=800_000,
        log_every=100,
        save_every=10_000,
        evaluate_every=100_000,
        sample_every=10_000,
    )
    config.sample.update(batch_size=64, num_examples=64)
    config.eval.num_terms = 100
    return select(config, variant, ddpm.tiny)

"""DCGAN on scikit-learn's 8x8 digits.

    python -m diffusion_jax.main --config=configs/digits_classifier.py
    python -m diffusion_jax.main --config=configs/digits_dcgan.py

Radford et al. 2016, arXiv:1511.06434, scaled down.
Result: FD of digits_classifier 14.1, smallest class 6.5 % (1000 samples).
Time: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import gan
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = gan.defaults()
    config.name = "digits_dcgan"
    config.model.width = 32
    config.optim.ema_decay = 0.999
    config.train.update(
        num_steps=6000, save_every=3000, evaluate_every=3000, sample_every=6000
    )
    config.eval.classifier = "runs/digits_classifier"
    return select(config, variant, gan.tiny)

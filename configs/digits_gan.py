"""GAN with dense layers on scikit-learn's 8x8 digits: the baseline for DCGAN.

    python -m diffusion_jax.main --config=configs/digits_classifier.py
    python -m diffusion_jax.main --config=configs/digits_gan.py

Goodfellow et al. 2014, arXiv:1406.2661.
Result: FD of digits_classifier 6.82, smallest class 6.4 % (1000 samples).
Time: not measured.
"""

from ml_collections import ConfigDict, config_dict

from diffusion_jax.methods import gan
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = gan.defaults()
    config.name = "digits_gan"
    config.model = config_dict.create(
        name="mlp", hidden=(128, 256), bounded=True, num_classes=0
    )
    config.optim.ema_decay = 0.999
    config.train.update(
        num_steps=6000, save_every=3000, evaluate_every=3000, sample_every=6000
    )
    config.eval.classifier = "runs/digits_classifier"
    return select(config, variant, gan.tiny)

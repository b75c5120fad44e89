"""Classifier of scikit-learn's digits; its features are used to evaluate samples.

    python -m diffusion_jax.main --config=configs/digits_classifier.py

The eval.classifier of other configs points at this run's folder.
Result: 98.1 % accuracy on held-out digits.
Time: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import classifier
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = classifier.defaults()
    config.name = "digits_classifier"
    config.train.update(num_steps=1500, save_every=1500, evaluate_every=1500)
    decay_over_second_half(config)
    return select(config, variant, classifier.tiny)

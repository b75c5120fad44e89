"""A classifier of scikit-learn's digits, whose features measure samples.

    python -m diffusion_jax.main --config=configs/digits_classifier.py

Its folder is what eval.classifier of other configs names.
Expected: see the README.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import classifier
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = classifier.defaults()
    config.name = "digits_classifier"
    config.train.update(num_steps=1500, save_every=1500, evaluate_every=1500)
    decay_over_second_half(config)
    return select(config, variant, classifier.tiny)

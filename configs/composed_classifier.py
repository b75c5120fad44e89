"""Classifier of the factors of composed digits, by which their generators are measured.

    python -m diffusion_jax.main --config=configs/composed_classifier.py
    python -m diffusion_jax.main --config=configs/composed_classifier.py \
        --mode=evaluate --config.eval.split=unseen

It is trained on all combinations of factors, also those that the generators never see.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import classifier
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = classifier.defaults()
    config.name = "composed_classifier"
    config.data.update(source="composed:digits", train_split="all", image_size=24)
    config.model.update(channels=(32, 64, 128), num_features=256)
    first = ("label", "size", "polarity", "position")
    config.model.labels = (*first, *(f"{name}_2" for name in first))
    config.train.update(num_steps=6000, save_every=3000, evaluate_every=3000)
    decay_over_second_half(config)
    return select(config, variant, classifier.tiny)

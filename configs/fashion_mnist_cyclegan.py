r"""CycleGAN between Fashion-MNIST and its negatives.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py
    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py \
        --config.data.source=inverted:idx:/usr/share/datasets/fashion-mnist \
        --workdir=runs/inverted_fashion_mnist_classifier
    python -m diffusion_jax.main --config=configs/fashion_mnist_cyclegan.py

Zhu et al. 2017, arXiv:1703.10593, scaled down. There is no identity term, because it
would penalise inversion. The cycle's weight is half the paper's: with a large one, the
generators can settle on the identity before the discriminators object.
Data: apt-get install dataset-fashion-mnist, or point data.source at any folder with
files in MNIST's format: --config.data.source=idx:PATH.
Result: not measured.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import cyclegan
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = cyclegan.defaults()
    config.name = "fashion_mnist_cyclegan"
    config.data.update(
        source="idx:/usr/share/datasets/fashion-mnist",
        image_size=28,
        batch_size=32,
        source_b="inverted:idx:/usr/share/datasets/fashion-mnist",
    )
    config.model.update(
        base_channels=32,
        num_blocks=1,
        num_downsamplings=0,
        disc_channels=32,
        disc_layers=1,
    )
    config.cyclegan.update(cycle_weight=5.0, identity_weight=0.0)
    config.optim.ema_decay = 0.99
    config.train.update(
        log_every=100, save_every=500, evaluate_every=500, sample_every=1000
    )
    decay_over_second_half(config)
    config.eval.update(
        classifier="runs/fashion_mnist_classifier",
        paired=True,
        classifier_b="runs/inverted_fashion_mnist_classifier",
    )
    return select(config, variant, cyclegan.tiny)

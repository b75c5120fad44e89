r"""dVAE of Fashion-MNIST: 7x7 codes out of 128. Result: not measured.

    python -m diffusion_jax.main --config=configs/fashion_mnist_dvae.py

Data: apt-get install dataset-fashion-mnist.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dvae
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dvae.defaults()
    config.name = "fashion_mnist_dvae"
    config.data.source = "captions:idx:/usr/share/datasets/fashion-mnist"
    config.data.update(image_size=28, batch_size=64)
    config.model.update(num_codes=128, num_features=32, width=64, num_downsamplings=2)
    config.dvae.update(likelihood="gaussian", noise_scale=0.2)
    config.dvae.update(temperature_steps=1500, kl_weight=1.0, kl_warmup_steps=500)
    config.train.update(num_steps=2000, evaluate_every=1000, sample_every=2000)
    decay_over_second_half(config)
    config.eval.classifier = "runs/fashion_mnist_classifier"
    return select(config, variant, dvae.tiny)

r"""DALL-E of Fashion-MNIST, over fashion_mnist_dvae's codes. Result: not measured.

    bash launch/local.sh configs/fashion_mnist_dvae.py
    bash launch/local.sh configs/fashion_mnist_dalle.py
    bash launch/local.sh configs/fashion_mnist_dalle.py --mode=sample \
        --config.sample.prompt="a coat|a picture of a sandal"
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dalle
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dalle.defaults()
    config.name = "fashion_mnist_dalle"
    config.data.source = "captions:idx:/usr/share/datasets/fashion-mnist"
    config.data.update(image_size=28, batch_size=64)
    config.dvae_model.update(num_codes=128, num_features=32, width=64)
    config.dvae_model.num_downsamplings = 2
    config.dvae.update(likelihood="gaussian", noise_scale=0.2)
    config.optim.update(warmup_steps=100, ema_decay=0.995)
    config.train.update(num_steps=3000, log_every=100)
    config.train.update(sample_every=3000, init_from="dvae=runs/fashion_mnist_dvae")
    decay_over_second_half(config)
    config.sample.num_examples = 200
    config.eval.classifier = "runs/fashion_mnist_classifier"
    return select(config, variant, dalle.tiny)

r"""DALL-E of composed pictures, over the codes of composed_dvae.

    bash launch/local.sh configs/composed_dvae.py
    bash launch/local.sh configs/composed_dalle.py
    bash launch/local.sh configs/composed_dalle.py --mode=sample \
        --config.sample.prompt="a small three left of a large inverted seven"

Result: 32.4 % of the classes are as the caption says, 21.4 % in unseen combinations,
and at least 99.1 % of sizes, polarities and positions; 0.698 nats per held-out code.
Time: about an hour on one core, after 12 minutes of composed_dvae.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dalle
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dalle.defaults()
    config.name = "composed_dalle"
    config.data.update(source="composed:digits", image_size=24, batch_size=64)
    config.dvae_model.update(name="vq", num_codes=64, num_features=32, width=64)
    config.dvae_model.num_downsamplings = 1
    config.dvae.update(likelihood="gaussian", noise_scale=0.1)
    config.optim.update(warmup_steps=200, ema_decay=0.995)
    config.train.update(num_steps=2500, log_every=100, save_every=500)
    config.train.update(sample_every=1250, init_from="dvae=runs/composed_dvae")
    decay_over_second_half(config)
    config.sample.num_examples = 200
    config.eval.classifier = "runs/composed_classifier"
    return select(config, variant, dalle.tiny)

"""Adds numbers of three digits by a Transformer.

bash launch/local.sh configs/addition_transformer.py

Result: 2047 of 2048 held-out sums are right.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import seq2seq
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = seq2seq.defaults("transformer")
    config.name = "addition_transformer"
    config.data.source = "addition:3"
    config.train.update(num_steps=3000, log_every=100, sample_every=1000)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 30
    decay_over_second_half(config)
    return select(config, variant, seq2seq.tiny)

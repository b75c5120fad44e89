"""Letters to phonemes of the CMU pronouncing dictionary by LSTMs with attention.

bash launch/local.sh configs/cmudict_attention.py
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import seq2seq
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = seq2seq.defaults()
    config.name = "cmudict_attention"
    config.data.update(source="cmudict", target_vocabulary="words", held_out=0.05)
    config.data.bucketed = True
    config.model.update(cell="lstm", width=256, dropout=0.2)
    config.optim.update(learning_rate=0.002, ema_decay=0.999)
    config.train.update(num_steps=6000, log_every=100, sample_every=1000)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 30
    decay_over_second_half(config)
    return select(config, variant, seq2seq.tiny)

"""Letters to phonemes of the CMU pronouncing dictionary by a Transformer.

bash launch/local.sh configs/cmudict_transformer.py
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import seq2seq
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = seq2seq.defaults("transformer")
    config.name = "cmudict_transformer"
    config.data.update(source="cmudict", target_vocabulary="words", held_out=0.05)
    config.data.bucketed = True
    config.data.batch_size = 128
    config.model.update(num_layers=3, dropout=0.1)
    config.seq2seq.label_smoothing = 0.1
    config.optim.update(b2=0.98)
    config.train.update(num_steps=8000, log_every=100, sample_every=1000)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 16
    decay_over_second_half(config)
    return select(config, variant, seq2seq.tiny)

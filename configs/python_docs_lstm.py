"""LSTM language model of the help topics in Python's standard library, by characters.

    bash launch/local.sh configs/python_docs_lstm.py

Result: 1.973 bits per character on Python 3.11.7 (a 5-gram: 2.282).
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import language_model
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = language_model.defaults()
    config.name = "python_docs_lstm"
    config.model.dropout = 0.2
    config.optim.update(learning_rate=0.003)
    config.train.update(num_steps=1200, log_every=100, sample_every=600)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 24
    decay_over_second_half(config)
    config.sample.temperature = 0.7
    return select(config, variant, language_model.tiny)

"""GPT language model of the help topics in Python's standard library, by characters.

    bash launch/local.sh configs/python_docs_gpt.py

Result: 1.905 bits per character on Python 3.11.7 (a 5-gram: 2.282).
Time: 37 minutes of CPU time.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import language_model
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = language_model.defaults("gpt")
    config.name = "python_docs_gpt"
    config.data.update(context=256, batch_size=16)
    config.model.update(positions="rotary", dropout=0.2)
    config.optim.update(learning_rate=0.002, b2=0.99, weight_decay=0.1, ema_decay=0.99)
    config.optim.update(decay="cosine", decay_to=0.1)
    config.train.update(num_steps=3300, log_every=100, sample_every=1100)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 33
    config.optim.decay_end = config.train.get_oneway_ref("num_steps")
    config.sample.temperature = 0.7
    return select(config, variant, language_model.tiny)

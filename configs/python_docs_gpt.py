"""GPT language model of the help topics in Python's standard library, by characters.

bash launch/local.sh configs/python_docs_gpt.py
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import language_model
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = language_model.defaults("gpt")
    config.name = "python_docs_gpt"
    config.model.update(positions="rotary", dropout=0.1)
    config.optim.update(b2=0.99, weight_decay=0.1, warmup_steps=100)
    config.optim.update(decay="cosine", decay_to=0.1)
    config.train.update(num_steps=2000, log_every=100)
    config.optim.decay_end = config.train.get_oneway_ref("num_steps")
    config.sample.temperature = 0.7
    return select(config, variant, language_model.tiny)

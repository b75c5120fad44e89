"""GPT of 117M parameters, for a text of your own: the size of Radford et al. 2018.

    bash launch/local.sh configs/gpt1.py --config.data.source=text:PATH

Meant for several accelerators (98 billion tokens); not trained here. Layers, widths,
vocabulary, batch, rates and weight decay are of section 4.1 of "Improving Language
Understanding by Generative Pre-Training". As in GPT-2, norms come before attention and
MLP instead of after them.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import language_model
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = language_model.defaults("gpt")
    config.name = "gpt1"
    config.data.update(source="text:PATH", vocabulary="bpe", vocabulary_size=40478)
    config.data.update(context=512, batch_size=64)
    config.model.update(num_layers=12, num_heads=12, width=768, dropout=0.1)
    config.model.dtype = "bfloat16"
    config.optim.update(learning_rate=2.5e-4, weight_decay=0.01, warmup_steps=2000)
    config.optim.decay = "cosine"
    config.train.update(num_steps=3_000_000, log_every=100, save_every=10_000)
    config.optim.decay_end = config.train.get_oneway_ref("num_steps")
    return select(config, variant, language_model.tiny)

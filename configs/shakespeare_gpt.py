"""GPT language model of Shakespeare's plays, by characters: nanoGPT's setting for CPUs.

    bash launch/local.sh configs/shakespeare_gpt.py --config.data.source=text:PATH

PATH is a UTF-8 file, such as the 1.1 MB of "tiny Shakespeare" (Karpathy 2015).
Reference: 1.88 nats per character on the last tenth (nanoGPT's README).
Result: 1.789 with rotary positions; 1.897 with --config.model.positions=learned, those
of nanoGPT.
Time: four minutes on two CPU cores that other work shared.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import language_model
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = language_model.defaults("gpt")
    config.name = "shakespeare_gpt"
    config.data.update(source="text:PATH", context=64, batch_size=12)
    config.model.positions = "rotary"
    config.optim.update(b2=0.99, weight_decay=0.1)
    config.optim.update(decay="cosine", decay_to=0.1)
    config.train.update(num_steps=2000, log_every=200, sample_every=2000)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 20
    config.optim.decay_end = config.train.get_oneway_ref("num_steps")
    return select(config, variant, language_model.tiny)

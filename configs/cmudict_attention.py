"""Letters to phonemes of the CMU pronouncing dictionary by LSTMs with attention.

    pip install -e '.[text]'
    python -m diffusion_jax.main --config=configs/cmudict_attention.py

Result: 27.2 % of held-out words wrong, 6.3 % of their phonemes (without stress; a word
may have any of its pronunciations).
Time: 23 minutes of CPU time.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import seq2seq
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = seq2seq.defaults()
    config.name = "cmudict_attention"
    config.data.update(source="cmudict", target_vocabulary="words", held_out=0.05)
    config.data.update(bucketed=True, batch_size=128)
    config.model.update(cell="lstm", width=256, dropout=0.2)
    config.optim.update(learning_rate=0.002, ema_decay=0.999)
    config.train.update(num_steps=4500, log_every=100, sample_every=1500)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 20
    decay_over_second_half(config)
    return select(config, variant, seq2seq.tiny)

"""Letters to phonemes of the CMU pronouncing dictionary by a Transformer.

    pip install -e '.[text]'
    python -m diffusion_jax.main --config=configs/cmudict_transformer.py

Result: 33.4 % of held-out words wrong, 8.0 % of their phonemes (without stress; a word
may have any of its pronunciations).
Time: 24 minutes of CPU time.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import seq2seq
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = seq2seq.defaults("transformer")
    config.name = "cmudict_transformer"
    config.data.update(source="cmudict", target_vocabulary="words", held_out=0.05)
    config.data.update(bucketed=True, batch_size=128)
    config.model.update(num_layers=3, dropout=0.1)
    config.seq2seq.label_smoothing = 0.1
    config.optim.update(b2=0.98)
    config.train.update(num_steps=6000, log_every=100, sample_every=2000)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 10
    decay_over_second_half(config)
    return select(config, variant, seq2seq.tiny)

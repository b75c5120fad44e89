r"""The base Transformer of Vaswani et al. 2017, table 3, arXiv:1706.03762.

    python -m diffusion_jax.main --config=configs/transformer_base.py \
        --config.data.source=pairs:PATH

63,082,496 parameters (the paper: 65 million); not trained here. A batch has 192 pairs
of similar length, at most 25,000 token positions on a side with padding; the paper's
have about 25,000 tokens. The paper averages its last five checkpoints; this does not.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import seq2seq
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = seq2seq.defaults("transformer")
    config.name = "transformer_base"
    config.data.update(
        source="pairs:PATH", vocabulary="bpe", vocabulary_size=37_000, max_length=128
    )
    config.data.update(shared_vocabulary=True, bucketed=True, batch_size=192)
    config.model.update(
        num_layers=6, num_heads=8, width=512, mlp_width=2048, dropout=0.1
    )
    config.seq2seq.label_smoothing = 0.1
    # width^-0.5 min(step^-0.5, step warmup^-1.5): its peak is (width warmup)^-0.5.
    config.optim.update(learning_rate=(512 * 4000) ** -0.5, warmup_steps=4000)
    config.optim.update(decay="inverse_sqrt", b2=0.98, eps=1e-9, clip="none")
    config.train.update(num_steps=100_000, save_every=5000, sample_every=5000)
    config.sample.update(beam_size=4, length_penalty=0.6)
    config.eval.metric = "bleu"
    return select(config, variant, seq2seq.tiny)

r"""A small DALL-E at 256x256 pixels: 1,024 codes an image, 12 layers of width 768.

    python -m diffusion_jax.main --config=configs/dalle_dvae.py \
        --config.data.source=captions:folder:PATH
    python -m diffusion_jax.main --config=configs/dalle_small.py \
        --config.data.source=captions:folder:PATH

The optimiser is that of Ramesh et al. 2021, appendix B.2, arXiv:2102.12092, whose
Transformer has 64 layers and 12 billion parameters; not trained here.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dalle
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dalle.defaults()
    config.name = "dalle_small"
    config.data.update(
        source="captions:folder:PATH", image_size=256, num_channels=3, batch_size=1024
    )
    config.model.update(num_layers=12, num_heads=12, width=768, dtype="bfloat16")
    config.dalle.cond_dropout = 0.1
    config.optim.update(learning_rate=4.5e-4, warmup_steps=5000, b2=0.96)
    config.optim.update(weight_decay=4.5e-2, clip_norm=4.0, ema_decay=0.999)
    config.train.update(num_steps=430_000, save_every=10_000, sample_every=10_000)
    config.train.init_from = "dvae=runs/dalle_dvae"
    config.sample.update(num_examples=16, batch_size=16)
    config.eval.metric = "token_nats"
    return select(config, variant, dalle.tiny)

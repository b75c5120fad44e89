r"""The dVAE of DALL-E: 256x256 pixels, 32x32 codes out of 8,192.

    python -m diffusion_jax.main --config=configs/dalle_dvae.py \
        --config.data.source=captions:folder:PATH

Sizes and schedules of Ramesh et al. 2021, section 2.1 and appendix A.2,
arXiv:2102.12092, with a smaller network; not trained here.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import dvae
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = dvae.defaults()
    config.name = "dalle_dvae"
    config.data.update(
        source="captions:folder:PATH", image_size=256, num_channels=3, batch_size=512
    )
    config.optim.update(learning_rate=1e-4, decay="cosine", decay_to=0.0125)
    config.optim.update(decay_end=3_000_000, weight_decay=1e-4, ema_decay=0.999)
    config.train.update(num_steps=3_000_000, save_every=10_000, sample_every=10_000)
    return select(config, variant, dvae.tiny)

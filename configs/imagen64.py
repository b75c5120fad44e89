r"""Text-conditional diffusion at 64x64 pixels, of the kind of Imagen's base model.

    python -m diffusion_jax.main --config=configs/imagen64.py \
        --config.data.source=captions:folder:PATH

Its network is the U-Net of Saharia et al. 2022, appendix F.1, arXiv:2205.11487: 512
channels, multipliers (1, 2, 3, 4), 3 blocks, attention at 32, 16 and 8 pixels. The text
encoder is trained jointly, while Imagen's is a frozen T5-XXL; not trained here.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods.config import select
from diffusion_jax.methods.ddpm import config as ddpm


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = ddpm.defaults()
    config.name = "imagen64"
    config.data.update(
        source="captions:folder:PATH", image_size=64, num_channels=3, batch_size=2048
    )
    config.model.update(
        base_channels=512,
        channel_multipliers=(1, 2, 3, 4),
        num_blocks=3,
        attention_resolutions=(32, 16, 8),
        dtype="bfloat16",
        remat="blocks",
        caption_width=1024,
        caption_layers=12,
        caption_heads=16,
    )
    config.diffusion.update(schedule="cosine", cond_dropout=0.1)
    config.optim.update(learning_rate=1e-4, warmup_steps=10_000)
    config.train.update(num_steps=2_500_000, save_every=10_000, sample_every=10_000)
    config.sample.update(thresholding="dynamic", guidance_scale=5.0, num_steps=256)
    config.eval.metric = "samples"
    return select(config, variant, ddpm.tiny)

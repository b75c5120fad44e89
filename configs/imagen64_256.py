r"""A cascade from captions to 256x256 pixels: imagen64 and an upsampler by 4.

    python -m diffusion_jax.main --config=configs/imagen64_256.py \
        --config.data.source=captions:folder:PATH

Trains the upsampler; the base is that of configs/imagen64.py and stays as it is. The
upsampler is of the kind of Saharia et al. 2022, appendix F.2, arXiv:2205.11487, with
noise of levels up to 1; not trained here.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import cascade
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = cascade.defaults()
    config.name = "imagen64_256"
    config.data.update(
        source="captions:folder:PATH", image_size=256, num_channels=3, batch_size=2048
    )
    config.model.update(  # as in imagen64
        base_channels=512,
        channel_multipliers=(1, 2, 3, 4),
        num_blocks=3,
        attention_resolutions=(32, 16, 8),
        dtype="bfloat16",
        remat="blocks",
    )
    config.model.update(caption_width=1024, caption_layers=12, caption_heads=16)
    config.diffusion.update(schedule="cosine", cond_dropout=0.1)
    config.upsampler.model.update(
        channel_multipliers=(1, 2, 4, 8),
        attention_resolutions=(),  # the middle attends, at 32 pixels
        dtype="bfloat16",
        remat="blocks",
        caption_width=1024,
        caption_layers=12,
        caption_heads=16,
    )
    config.upsampler.diffusion.update(schedule="cosine", cond_dropout=0.1, cond_noise=1)
    config.cascade.update(factor=4, trained=("upsampler",))
    config.optim.update(learning_rate=1e-4, warmup_steps=10_000)
    config.train.update(num_steps=1_000_000, save_every=10_000, sample_every=10_000)
    config.train.init_from = "base:net=runs/imagen64"
    config.sample.update(thresholding="dynamic", guidance_scale=5.0, num_steps=256)
    config.sample.cond_noise = 0.2
    return select(config, variant, cascade.tiny)

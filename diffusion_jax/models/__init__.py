"""Networks: Flax (Linen) modules only."""

from diffusion_jax.models.unet import UNet

MODELS = {"unet": UNet}

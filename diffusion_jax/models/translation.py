"""Networks from picture to picture: CycleGAN's, pix2pix's U-Net, and PatchGAN."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from diffusion_jax.models.conv_transpose import ConvTranspose2x
from diffusion_jax.models.dcgan import WEIGHT_INIT, halving
from diffusion_jax.models.dense import LEAK
from diffusion_jax.models.norms import InstanceNorm

MAX_CHANNELS = 8  # times base_channels, in the U-Net and in PatchGAN


def _conv(features: int, kernel: int, padding: int, name: str, strides: int = 1):
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=strides,
        padding=padding,
        kernel_init=WEIGHT_INIT,
        name=name,
    )


def _doubling(features: int, kernel_size: int, name: str) -> ConvTranspose2x:
    return ConvTranspose2x(features, kernel_size, kernel_init=WEIGHT_INIT, name=name)


def _mirror(x: Array, pad: int) -> Array:
    """Continues the picture by its mirror image, the border itself not repeated."""
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")


def _norm(x: Array) -> Array:
    return InstanceNorm()(x)


class ResidualBlock(nn.Module):
    """Two mirrored 3x3 convolutions with instance norm, added to their input."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the block to x [B, H, W, C]."""
        h = _conv(x.shape[-1], 3, 0, "conv1")(_mirror(x, 1))
        h = nn.relu(_norm(h))
        h = _conv(x.shape[-1], 3, 0, "conv2")(_mirror(h, 1))
        return x + _norm(h)


class ResNetGenerator(nn.Module):
    """CycleGAN's generator: down, residual blocks, and up again.

    In the paper's words, with two downsamplings: c7s1-64, d128, d256, R256 (nine of
    them), u128, u64, c7s1-C, tanh. Instance norm, ReLU and mirrored borders throughout.

    Attributes:
      out_channels: C.
      base_channels: at full resolution; twice as many at each downsampling.
      num_blocks: residual blocks at the lowest resolution: 6 for 128 pixels, 9 for 256.
      num_downsamplings: each halves the size.

    Source: Zhu et al. 2017, appendix 7.2, arXiv:1703.10593.
    """

    out_channels: int
    base_channels: int = 64
    num_blocks: int = 9
    num_downsamplings: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Translates x [B, H, W, C] to [B, H, W, out_channels] in [-1, 1].

        Raises:
          ValueError: see `check_resnet_size`.
        """
        for size in x.shape[1:3]:
            check_resnet_size(size, self.num_downsamplings)
        h = _conv(self.base_channels, 7, 0, "conv_in")(_mirror(x, 3))
        h = nn.relu(_norm(h))
        for i in range(self.num_downsamplings):
            h = _conv(2 * h.shape[-1], 3, 1, f"down{i}", strides=2)(h)
            h = nn.relu(_norm(h))
        for i in range(self.num_blocks):
            h = ResidualBlock(name=f"block{i}")(h)
        for i in reversed(range(self.num_downsamplings)):
            h = _doubling(h.shape[-1] // 2, 3, f"up{i}")(h)
            h = nn.relu(_norm(h))
        return jnp.tanh(_conv(self.out_channels, 7, 0, "conv_out")(_mirror(h, 3)))


class UNetGenerator(nn.Module):
    """The U-Net of pix2pix: halved down to the bottom, doubled up, joined at each size.

    Channels double up to 8 times the base. LeakyReLU down, ReLU up; instance norm but
    for the outermost layers and the bottom; a tanh at the end. Without dropout.

    Attributes:
      out_channels: C.
      base_channels: at half the resolution.
      num_levels: how often the size is halved: 8 for 256 pixels, 7 for 128.

    Source: Isola et al. 2017, appendix 6.1, arXiv:1611.07004, with instance norm as in
    the code of CycleGAN's authors.
    """

    out_channels: int
    base_channels: int = 64
    num_levels: int = 8

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Translates x [B, H, W, C] to [B, H, W, out_channels] in [-1, 1].

        Raises:
          ValueError: see `check_unet_size`.
        """
        for size in x.shape[1:3]:
            check_unet_size(size, self.num_levels)
        features = [
            self.base_channels * min(2**level, MAX_CHANNELS)
            for level in range(self.num_levels)
        ]
        h, skips = x, []
        for level in range(self.num_levels):
            h = nn.leaky_relu(h, LEAK) if level > 0 else h
            h = halving(features[level], True, f"down{level}")(h)
            # The bottom may be a single pixel, which a norm over pixels would erase.
            h = _norm(h) if 0 < level < self.num_levels - 1 else h
            skips.append(h)
        h = skips.pop()
        for level in reversed(range(1, self.num_levels)):
            h = _doubling(features[level - 1], 4, f"up{level}")(nn.relu(h))
            h = jnp.concatenate([skips.pop(), _norm(h)], axis=-1)
        return jnp.tanh(_doubling(self.out_channels, 4, "up0")(nn.relu(h)))


class PatchDiscriminator(nn.Module):
    """Says how real each patch of a picture looks; three layers see 70x70 pixels.

    4x4 convolutions: C64-C128-C256 of stride 2, C512 of stride 1, and the scores.
    Instance norm but for the first and the last; LeakyReLU; channels up to 8 times the
    base.

    Attributes:
      base_channels: of the first layer.
      num_layers: of stride 2, at least 1; each doubles the patch and more: 16, 34, 70.

    Source: Isola et al. 2017, appendix 6.1.2, arXiv:1611.07004; Zhu et al. 2017,
    appendix 7.2, arXiv:1703.10593.
    """

    base_channels: int = 64
    num_layers: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns scores [B, h, w], a patch each, of x [B, H, W, C].

        Raises:
          ValueError: see `check_patch_size`.
        """
        for size in x.shape[1:3]:
            check_patch_size(size, self.num_layers)
        h = x
        for i in range(self.num_layers + 1):
            features = self.base_channels * min(2**i, MAX_CHANNELS)
            strides = 2 if i < self.num_layers else 1
            h = _conv(features, 4, 1, f"conv{i}", strides)(h)
            h = nn.leaky_relu(_norm(h) if i > 0 else h, LEAK)
        return _conv(1, 4, 1, "out")(h)[..., 0]


def check_resnet_size(image_size: int, num_downsamplings: int) -> None:
    """Refuses a side that cannot be halved that often, or be mirrored.

    A border of 3 needs 4 pixels at full resolution, and one of 1 needs 2 at the lowest.

    Raises:
      ValueError: it is no multiple of 2^num_downsamplings, or too small.
    """
    factor = 2**num_downsamplings
    smallest = max(4, 2 * factor)
    if image_size % factor or image_size < smallest:
        raise ValueError(
            f"The ResNet halves the image {num_downsamplings} times and mirrors its "
            f"borders, so data.image_size must be a multiple of {factor} and at least "
            f"{smallest}, but it is {image_size}. Resize the data or give fewer "
            "model.num_downsamplings."
        )


def check_unet_size(image_size: int, num_levels: int) -> None:
    """Refuses a side that cannot be halved at every level.

    Raises:
      ValueError: it is no multiple of 2^num_levels.
    """
    factor = 2**num_levels
    if image_size % factor:
        raise ValueError(
            f"The U-Net halves the image {num_levels} times, so data.image_size must "
            f"be a multiple of {factor}, but it is {image_size}. Resize the data or "
            "give fewer model.num_levels."
        )


def check_patch_size(image_size: int, num_layers: int) -> None:
    """Refuses a side of which no score is left.

    A layer of stride 2 halves it (rounding down); the last two take one pixel each.

    Raises:
      ValueError: it is smaller than 3 2^num_layers.
    """
    smallest = 3 * 2**num_layers
    if image_size < smallest:
        raise ValueError(
            f"A discriminator of patches with model.disc_layers = {num_layers} needs "
            f"images of {smallest} pixels a side at least, but data.image_size = "
            f"{image_size}. Enlarge the data or give fewer layers."
        )

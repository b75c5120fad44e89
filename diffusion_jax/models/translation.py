"""Image-to-image networks: CycleGAN's ResNet, pix2pix's U-Net, and PatchGAN."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.models.conv_transpose import ConvTranspose2x
from diffusion_jax.models.dcgan import WEIGHT_INIT, conv_down
from diffusion_jax.models.dense import LEAK
from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.precision import at_least_float32

MAX_MULTIPLIER = 8  # of base_channels, in the U-Net and in PatchGAN
NUM_DROPPED = 3  # layers of the U-Net's decoder with dropout, from the lowest on


def _conv(
    features: int,
    kernel: int,
    padding: int,
    dtype: DTypeLike | None,
    name: str,
    strides: int = 1,
) -> nn.Conv:
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=strides,
        padding=padding,
        kernel_init=WEIGHT_INIT,
        dtype=dtype,
        name=name,
    )


def _conv_up(
    features: int, kernel_size: int, dtype: DTypeLike | None, name: str
) -> ConvTranspose2x:
    return ConvTranspose2x(
        features, kernel_size, kernel_init=WEIGHT_INIT, dtype=dtype, name=name
    )


def _reflect_pad(x: Array, pad: int) -> Array:
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")


def instance_norm(x: Array) -> Array:
    """Normalizes each channel of each image over its pixels, without parameters.

    Source: Ulyanov et al. 2016, equation 4, arXiv:1607.08022.
    """
    return nn.InstanceNorm(
        epsilon=1e-5, use_scale=False, use_bias=False, use_fast_variance=False
    )(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with reflection padding and instance norm, plus a skip.

    Attributes:
      dropout: rate after the first convolution, in [0, 1).
      dtype: of activations; None: that of the input and the parameters.
    """

    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array, index: Array | None = None) -> Array:
        """Applies the block to x [B, H, W, C]; index: see `ExampleDropout`."""
        h = _conv(x.shape[-1], 3, 0, self.dtype, "conv1")(_reflect_pad(x, 1))
        h = nn.relu(instance_norm(h))
        h = ExampleDropout(self.dropout, name="dropout")(h, index)
        h = _conv(x.shape[-1], 3, 0, self.dtype, "conv2")(_reflect_pad(h, 1))
        return x + instance_norm(h)


class ResNetGenerator(nn.Module):
    """CycleGAN's generator: downsampling, residual blocks, and upsampling.

    In the paper's notation, with two downsamplings: c7s1-64, d128, d256, nine R256,
    u128, u64, c7s1-C, tanh. Instance norm, ReLU and reflection padding throughout.

    Attributes:
      out_channels: C.
      base_channels: channels at full resolution; each downsampling doubles them.
      num_blocks: residual blocks at the lowest resolution; 6 for 128 pixels, 9 for 256.
      num_downsamplings: number of convolutions that halve the resolution.
      dropout: rate in the residual blocks, in [0, 1), as pix2pix may have it.
      dtype: of activations; None: that of the input and the parameters, which stay
        float32. Moments and the output are in float32 or wider.

    Source: Zhu et al. 2017, appendix 7.2, arXiv:1703.10593.
    """

    out_channels: int
    base_channels: int = 64
    num_blocks: int = 9
    num_downsamplings: int = 2
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array, index: Array | None = None) -> Array:
        """Translates x [B, H, W, C] to [B, H, W, out_channels] in [-1, 1].

        Args:
          x: images.
          index: i32[B] if dropout is active; see `ExampleDropout`.

        Raises:
          ValueError: see `check_resnet_size`.
        """
        for size in x.shape[1:3]:
            check_resnet_size(size, self.num_downsamplings)
        h = _conv(self.base_channels, 7, 0, self.dtype, "conv_in")(_reflect_pad(x, 3))
        h = nn.relu(instance_norm(h))
        for i in range(self.num_downsamplings):
            h = _conv(2 * h.shape[-1], 3, 1, self.dtype, f"down{i}", strides=2)(h)
            h = nn.relu(instance_norm(h))
        for i in range(self.num_blocks):
            h = ResidualBlock(self.dropout, self.dtype, name=f"block{i}")(h, index)
        for i in reversed(range(self.num_downsamplings)):
            h = _conv_up(h.shape[-1] // 2, 3, self.dtype, f"up{i}")(h)
            h = nn.relu(instance_norm(h))
        conv_out = _conv(self.out_channels, 7, 0, self.dtype, "conv_out")
        return jnp.tanh(at_least_float32(conv_out(_reflect_pad(h, 3))))


class UNetGenerator(nn.Module):
    """The U-Net of pix2pix, with a skip connection at each resolution.

    Channels double up to 8 times base_channels. LeakyReLU in the encoder and ReLU in
    the decoder; instance norm in all layers but the outermost and the bottleneck; a
    tanh at the end. Dropout in the three lowest layers of the decoder.

    Attributes:
      out_channels: C.
      base_channels: channels at half the resolution.
      num_levels: how often the resolution is halved; 8 for 256 pixels, 7 for 128.
      dropout: rate, in [0, 1); 0.5 in the paper.
      dtype: of activations; None: that of the input and the parameters, which stay
        float32. Moments and the output are in float32 or wider.

    Source: Isola et al. 2017, appendix 6.1, arXiv:1611.07004, with instance norm as in
    the code of CycleGAN's authors.
    """

    out_channels: int
    base_channels: int = 64
    num_levels: int = 8
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array, index: Array | None = None) -> Array:
        """Translates x [B, H, W, C] to [B, H, W, out_channels] in [-1, 1].

        Args:
          x: images.
          index: i32[B] if dropout is active; see `ExampleDropout`.

        Raises:
          ValueError: see `check_unet_size`.
        """
        for size in x.shape[1:3]:
            check_unet_size(size, self.num_levels)
        features = [
            self.base_channels * min(2**level, MAX_MULTIPLIER)
            for level in range(self.num_levels)
        ]
        h, skips = x, []
        for level in range(self.num_levels):
            h = nn.leaky_relu(h, LEAK) if level > 0 else h
            h = conv_down(features[level], True, f"down{level}", self.dtype)(h)
            # The bottleneck may be a single pixel, which instance norm would set to 0.
            h = instance_norm(h) if 0 < level < self.num_levels - 1 else h
            skips.append(h)
        h = skips.pop()
        for level in reversed(range(1, self.num_levels)):
            h = _conv_up(features[level - 1], 4, self.dtype, f"up{level}")(nn.relu(h))
            h = instance_norm(h)
            if level >= self.num_levels - NUM_DROPPED:
                h = ExampleDropout(self.dropout, name=f"dropout{level}")(h, index)
            h = jnp.concatenate([skips.pop(), h], axis=-1)
        h = _conv_up(self.out_channels, 4, self.dtype, "up0")(nn.relu(h))
        return jnp.tanh(at_least_float32(h))


class PatchDiscriminator(nn.Module):
    """Scores each patch of an image as real or fake; 70x70 pixels with three layers.

    4x4 convolutions: C64-C128-C256 with stride 2, C512 with stride 1, and the scores.
    Instance norm in all layers but the first and the last; LeakyReLU; channels double
    up to 8 times base_channels.

    Attributes:
      base_channels: channels of the first layer.
      num_layers: convolutions of stride 2; with 1, 2, 3 a score sees 16, 34, 70 pixels.
      dtype: of activations; None: that of the input and the parameters, which stay
        float32. Moments and the output are in float32 or wider.

    Source: Isola et al. 2017, appendix 6.1.2, arXiv:1611.07004; Zhu et al. 2017,
    appendix 7.2, arXiv:1703.10593.
    """

    base_channels: int = 64
    num_layers: int = 3
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns one score per patch, [B, h, w], of images x [B, H, W, C].

        Raises:
          ValueError: see `check_patch_size`.
        """
        for size in x.shape[1:3]:
            check_patch_size(size, self.num_layers)
        h = x
        for i in range(self.num_layers + 1):
            features = self.base_channels * min(2**i, MAX_MULTIPLIER)
            strides = 2 if i < self.num_layers else 1
            h = _conv(features, 4, 1, self.dtype, f"conv{i}", strides)(h)
            h = nn.leaky_relu(instance_norm(h) if i > 0 else h, LEAK)
        return at_least_float32(_conv(1, 4, 1, self.dtype, "out")(h)[..., 0])


def check_resnet_size(size: int, num_downsamplings: int) -> None:
    """Checks that the ResNet can downsample and pad a height or width in pixels.

    Padding by 3 needs 4 pixels at full resolution, and by 1 it needs 2 at the lowest.

    Raises:
      ValueError: it is not a multiple of 2^num_downsamplings, or too small.
    """
    factor = 2**num_downsamplings
    smallest = max(4, 2 * factor)
    if size % factor or size < smallest:
        raise ValueError(
            f"The ResNet downsamples {num_downsamplings} times and uses reflection "
            f"padding, so data.image_size must be a multiple of {factor} and at least "
            f"{smallest}, but it is {size}. Resize the data or reduce "
            "model.num_downsamplings."
        )


def check_unet_size(size: int, num_levels: int) -> None:
    """Checks that the U-Net can halve a height or width in pixels at every level.

    Raises:
      ValueError: it is not a multiple of 2^num_levels.
    """
    factor = 2**num_levels
    if size % factor:
        raise ValueError(
            f"The U-Net downsamples {num_levels} times, so data.image_size must be a "
            f"multiple of {factor}, but it is {size}. Resize the data or reduce "
            "model.num_levels."
        )


def check_patch_size(size: int, num_layers: int) -> None:
    """Checks that a height or width in pixels leaves PatchGAN at least one score.

    A layer of stride 2 halves it (rounding down); the last two take one pixel each.

    Raises:
      ValueError: it is smaller than 3 2^num_layers.
    """
    smallest = 3 * 2**num_layers
    if size < smallest:
        raise ValueError(
            f"PatchGAN with model.disc_layers = {num_layers} needs images of at least "
            f"{smallest}x{smallest} pixels, but data.image_size = {size}. Enlarge the "
            "data or reduce model.disc_layers."
        )

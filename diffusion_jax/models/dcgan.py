"""The generator and the discriminator of DCGAN, for any resolution that halves to 4..7.

Source: Radford et al. 2016, arXiv:1511.06434.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.lookup import lookup
from diffusion_jax.models.conv_transpose import ConvTranspose2x
from diffusion_jax.models.dense import LEAK, append_label
from diffusion_jax.models.precision import at_least_float32

WEIGHT_INIT = nn.initializers.normal(0.02)
MIN_SIZE, MAX_SIZE = 4, 7  # pixels of the shorter side at the lowest resolution


def scale_init(
    key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Array:
    """Draws scales from N(1, 0.02^2), as the DCGAN authors' code does."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


def batch_norm(
    x: Array, train: bool, axis_name: str | None, momentum: float, name: str
) -> Array:
    """Normalizes each channel of x [B, ..., C] over the batch, inside a Flax module.

    Args:
      x: activations; moments are computed in float32 or wider.
      train: whether to use the moments of the batch and update the running averages
        (collection "batch_stats") instead of using the latter.
      axis_name: axis over which moments are averaged across devices, or None.
      momentum: weight of the old running average in an update, in [0, 1).
      name: name of the layer.

    Source: Ioffe and Szegedy 2015, algorithm 1, arXiv:1502.03167.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        dtype=x.dtype,
        scale_init=scale_init,
        axis_name=axis_name,
        use_fast_variance=False,
        name=name,
    )(x)


def num_halvings(size: Sequence[int]) -> int:
    """Returns how often both sides can be halved while they stay at least 4 pixels.

    Args:
      size: (H, W) in pixels, e.g. 8, 16, 32, 64, 128 (halved to 4) or 28, 56 (to 7).

    Raises:
      ValueError: the shorter side does not end at 4..7 pixels after at least one
        halving.
    """

    def fits(count: int) -> bool:
        return all(n % 2**count == 0 and n >> count >= MIN_SIZE for n in size)

    count = 0
    while fits(count + 1):
        count += 1
    if not count or min(size) >> count > MAX_SIZE:
        sides = "x".join(map(str, dict.fromkeys(size)))
        raise ValueError(
            f"data.image_size = {sides} cannot be halved at least once to {MIN_SIZE}.."
            f"{MAX_SIZE} pixels: use 8, 16, 28, 32, 64, 128 or similar."
        )
    return count


def conv_down(
    features: int, use_bias: bool, name: str, dtype: DTypeLike | None = None
) -> nn.Conv:
    """Creates a convolution that halves the resolution: kernel 4, stride 2."""
    return nn.Conv(
        features,
        (4, 4),
        strides=2,
        padding=1,
        use_bias=use_bias,
        kernel_init=WEIGHT_INIT,
        dtype=dtype,
        name=name,
    )


class DCGANGenerator(nn.Module):
    """Generates images from noise with transposed convolutions.

    With k halvings, a dense layer makes a low-resolution map of width 2^(k-1) channels.
    Each transposed convolution doubles the resolution and halves the channels, and the
    last one outputs C. Batch norm and ReLU follow all layers but the last: a tanh.

    Attributes:
      image_shape: (H, W, C).
      width: channels before the last layer: 128 in the paper, 64 in PyTorch's example.
      num_classes: number of classes to condition on, or 0.
      axis_name: see `batch_norm`.
      momentum: see `batch_norm`.
      dtype: of activations; None: that of the input and the parameters, which stay
        float32. Moments and the output are in float32 or wider.

    Source: Radford et al. 2016, section 3 and figure 1, arXiv:1511.06434.
    """

    image_shape: Sequence[int]
    width: int
    num_classes: int = 0
    axis_name: str | None = None
    momentum: float = 0.9
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, z: Array, label: Array | None = None, train: bool = False
    ) -> Array:
        """Applies the network.

        Args:
          z: [B, Z].
          label: i32[B] if num_classes > 0; its one-hot encoding is appended to z.
          train: whether to normalize by the batch's moments; see `batch_norm`.

        Returns:
          [B, H, W, C] in [-1, 1].

        Raises:
          ValueError: see `num_halvings`.
        """
        *size, channels = self.image_shape
        k = num_halvings(size)

        def conv_up(features: int, name: str) -> ConvTranspose2x:
            return ConvTranspose2x(
                features,
                use_bias=False,
                kernel_init=WEIGHT_INIT,
                dtype=self.dtype,
                name=name,
            )

        def norm(h: Array, name: str) -> Array:
            return nn.relu(batch_norm(h, train, self.axis_name, self.momentum, name))

        h = append_label(z, label, self.num_classes)
        shape = (size[0] >> k, size[1] >> k, self.width * 2 ** (k - 1))
        h = nn.Dense(
            math.prod(shape),
            use_bias=False,
            kernel_init=WEIGHT_INIT,
            dtype=self.dtype,
            name="project",
        )(h)
        h = norm(h.reshape(-1, *shape), "norm0")
        for i in range(1, k):
            h = conv_up(h.shape[-1] // 2, f"up{i}")(h)
            h = norm(h, f"norm{i}")
        return jnp.tanh(at_least_float32(conv_up(channels, "out")(h)))


class DCGANDiscriminator(nn.Module):
    """Scores images as real or fake with strided convolutions.

    The first convolution outputs width channels, and each further one halves the
    resolution and doubles the channels; a last kernel covers the whole map. Batch norm
    follows all convolutions but the first and the last. LeakyReLU activations.

    Attributes:
      width: channels after the first layer.
      num_classes: number of classes to condition on, or 0.
      norm: "batch" (layers have no biases, as in the paper) or "none" (with biases).
      axis_name: see `batch_norm`.
      momentum: see `batch_norm`.
      dtype: of activations; None: that of the input and the parameters, which stay
        float32. Moments and the output are in float32 or wider.

    Source: Radford et al. 2016, section 3, arXiv:1511.06434.
    """

    width: int
    num_classes: int = 0
    norm: str = "batch"
    axis_name: str | None = None
    momentum: float = 0.9
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, train: bool = False
    ) -> Array:
        """Applies the network.

        Args:
          x: [B, H, W, C].
          label: i32[B] if num_classes > 0; its one-hot encoding is appended to the
            channels of every pixel.
          train: whether to normalize by the batch's moments; see `batch_norm`.

        Returns:
          Logits [B].

        Raises:
          ValueError: the norm is unknown, or see `num_halvings`.
        """
        normalized = lookup(NORMS, self.norm, "model.disc_norm")
        k = num_halvings(x.shape[1:3])
        h = append_label(x, label, self.num_classes)
        for i in range(k):
            features = self.width * 2**i
            h = conv_down(features, not normalized, f"down{i}", self.dtype)(h)
            if normalized and i > 0:
                h = batch_norm(h, train, self.axis_name, self.momentum, f"norm{i}")
            h = nn.leaky_relu(h, LEAK)
        h = nn.Conv(
            1,
            h.shape[1:3],
            padding="VALID",
            use_bias=not normalized,
            kernel_init=WEIGHT_INIT,
            dtype=self.dtype,
            name="out",
        )(h)
        return at_least_float32(h[:, 0, 0, 0])


def dcgan(
    data_shape: Sequence[int],
    axis_name: str | None,
    width: int,
    disc_norm: str,
    num_classes: int,
    dtype: DTypeLike | None = None,
) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    """Creates DCGAN's generator and discriminator with the same width.

    Args:
      data_shape: (H, W, C).
      axis_name: see `batch_norm`.
      width: see `DCGANGenerator`.
      disc_norm: norm of the discriminator.
      num_classes: number of classes to condition on, or 0.
      dtype: see `DCGANGenerator`.

    Raises:
      ValueError: the data are not images.
    """
    if len(data_shape) != 3:
        raise ValueError(
            "model.name = dcgan generates images [H, W, C], but the data have shape "
            f"{tuple(data_shape)}: use model.name = mlp."
        )
    return (
        DCGANGenerator(data_shape, width, num_classes, axis_name, dtype=dtype),
        DCGANDiscriminator(width, num_classes, disc_norm, axis_name, dtype=dtype),
    )


# Whether layers are normalized, which makes biases redundant.
NORMS = {"batch": True, "none": False}

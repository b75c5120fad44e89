"""The convolutional (variational) autoencoder."""

import math
from collections.abc import Sequence

import flax.linen as nn
from jax import Array

from diffusion_jax.models.conv_transpose import ConvTranspose2x

LEAK = 0.01  # slope of LeakyReLU below zero
KERNEL = (3, 3)


class ConvAutoencoder(nn.Module):
    """Encodes images as latent vectors and decodes them, with LeakyReLU activations.

    The encoder is a stack of 3x3 convolutions followed by a dense layer. The decoder
    mirrors it, with transposed convolutions of the same strides.

    Attributes:
      data_shape: (H, W, C).
      variational: whether the encoder also outputs a log-variance.
      channels: output channels of the encoder's convolutions.
      strides: their strides, each 1 or 2; the product must divide H and W.
      num_latents: Z, the size of a latent vector.

    Source: Foster 2019, Generative Deep Learning, chapter 3 (its slope is Keras' 0.3).
    """

    data_shape: Sequence[int]
    variational: bool
    channels: Sequence[int] = (32, 64, 64, 64)
    strides: Sequence[int] = (1, 2, 2, 1)
    num_latents: int = 2

    def setup(self) -> None:
        """Creates the layers.

        Raises:
          ValueError: the data are not images, channels and strides differ in length,
            or the strides do not fit the image; see `check_size`.
        """
        if len(self.data_shape) != 3:
            raise ValueError(
                "model.name = conv encodes images [H, W, C], but the data have shape "
                f"{tuple(self.data_shape)}: use model.name = dense."
            )
        *size, out_channels = self.data_shape
        if len(self.channels) != len(self.strides):
            raise ValueError(
                f"model.channels = {tuple(self.channels)} and model.strides = "
                f"{tuple(self.strides)} must have the same length."
            )
        for side in size:
            check_size(side, self.strides)
        reduction = math.prod(self.strides)
        self.map_shape = (*(side // reduction for side in size), self.channels[-1])
        self.encoder = [
            nn.Conv(features, KERNEL, strides=stride)
            for features, stride in zip(self.channels, self.strides, strict=True)
        ]
        self.mean = nn.Dense(self.num_latents)
        if self.variational:
            self.logvar = nn.Dense(self.num_latents)
        self.grid = nn.Dense(math.prod(self.map_shape))
        mirrored = (*reversed(self.channels[:-1]), out_channels)
        self.decoder = [
            ConvTranspose2x(features, 3) if stride == 2 else nn.Conv(features, KERNEL)
            for features, stride in zip(mirrored, reversed(self.strides), strict=True)
        ]

    def encode(self, x: Array) -> tuple[Array, Array | None]:
        """Encodes images as latent distributions.

        Args:
          x: [B, H, W, C].

        Returns:
          Mean [B, Z] and log-variance [B, Z], which is None unless variational.
        """
        for layer in self.encoder:
            x = nn.leaky_relu(layer(x), LEAK)
        h = x.reshape(x.shape[0], -1)
        return self.mean(h), self.logvar(h) if self.variational else None

    def decode(self, z: Array) -> Array:
        """Decodes latents z [B, Z] to unbounded outputs [B, H, W, C].

        They are logits or means, depending on the likelihood.
        """
        h = self.grid(z).reshape(z.shape[0], *self.map_shape)
        *inner, last = self.decoder
        for layer in inner:
            h = nn.leaky_relu(layer(h), LEAK)
        return last(h)

    def __call__(self, x: Array) -> Array:
        """Decodes the latent mean of x [B, H, W, C]."""
        return self.decode(self.encode(x)[0])


def check_size(size: int, strides: Sequence[int]) -> None:
    """Checks that the strides divide the height or width of an image.

    Args:
      size: height or width in pixels.
      strides: strides of the encoder's convolutions, in order.

    Raises:
      ValueError: a stride is not 1 or 2, or their product does not divide the size.
    """
    if not set(strides) <= {1, 2}:
        raise ValueError(f"model.strides = {tuple(strides)} must all be 1 or 2.")
    reduction = math.prod(strides)
    if size % reduction:
        lower = size // reduction * reduction
        sizes = " or ".join(str(n) for n in (lower, lower + reduction) if n)
        raise ValueError(
            f"model.strides = {tuple(strides)} reduce images by a factor of "
            f"{reduction}, so height and width must be multiples of {reduction}, but "
            f"data.image_size = {size}: use {sizes}, or other strides."
        )

"""The convolutional (variational) autoencoder."""

import math
from collections.abc import Sequence

import flax.linen as nn
from jax import Array

from diffusion_jax.models.conv_transpose import ConvTranspose2x

LEAK = 0.01  # slope of LeakyReLU below zero
KERNEL = (3, 3)


class ConvAutoencoder(nn.Module):
    """Codes a picture in a few numbers, and back; LeakyReLU between convolutions.

    Encoder: a 3x3 convolution an entry, then a dense layer from all pixels. The decoder
    mirrors it, with transposed convolutions of the same strides.

    Attributes:
      image_shape: (H, W, C).
      variational: whether a code is a normal distribution or a point.
      channels: of the encoder's convolutions.
      strides: as many, 1 or 2 each; each divides the size that reaches it.
      num_latents: Z, numbers in a code.

    Source: Foster 2019, Generative Deep Learning, chapter 3 (its slope is Keras' 0.3).
    """

    image_shape: Sequence[int]
    variational: bool
    channels: Sequence[int] = (32, 64, 64, 64)
    strides: Sequence[int] = (1, 2, 2, 1)
    num_latents: int = 2

    def setup(self) -> None:
        """Makes the layers; ValueError where a stride does not divide the size."""
        *size, out_channels = self.image_shape
        if len(self.channels) != len(self.strides):
            raise ValueError(
                f"model.channels = {tuple(self.channels)} and model.strides = "
                f"{tuple(self.strides)} must be as many."
            )
        for side in size:
            check_size(side, self.strides)
        reduction = math.prod(self.strides)
        self.code_shape = (*(side // reduction for side in size), self.channels[-1])
        self.encoder = [
            nn.Conv(features, KERNEL, strides=stride)
            for features, stride in zip(self.channels, self.strides, strict=True)
        ]
        self.mean = nn.Dense(self.num_latents)
        if self.variational:
            self.logvar = nn.Dense(self.num_latents)
        self.grid = nn.Dense(math.prod(self.code_shape))
        mirrored = (*reversed(self.channels[:-1]), out_channels)
        self.decoder = [
            ConvTranspose2x(features, 3) if stride == 2 else nn.Conv(features, KERNEL)
            for features, stride in zip(mirrored, reversed(self.strides), strict=True)
        ]

    def encode(self, x: Array) -> tuple[Array, Array | None]:
        """Returns a code's mean and log-variance, [B, Z] each, of x [B, H, W, C].

        The log-variance is None where the autoencoder is not variational.
        """
        for layer in self.encoder:
            x = nn.leaky_relu(layer(x), LEAK)
        h = x.reshape(x.shape[0], -1)
        return self.mean(h), self.logvar(h) if self.variational else None

    def decode(self, z: Array) -> Array:
        """Returns raw outputs [B, H, W, C], logits or means, of codes z [B, Z]."""
        h = self.grid(z).reshape(z.shape[0], *self.code_shape)
        *inner, last = self.decoder
        for layer in inner:
            h = nn.leaky_relu(layer(h), LEAK)
        return last(h)

    def __call__(self, x: Array) -> Array:
        """Decodes the mean of the code of x [B, H, W, C]."""
        mean, _ = self.encode(x)
        return self.decode(mean)


def check_size(image_size: int, strides: Sequence[int]) -> None:
    """Refuses a size that some stride does not divide on the way.

    Args:
      image_size: pixels a side.
      strides: of the encoder's convolutions, in order.

    Raises:
      ValueError: their product does not divide the size, or one is not 1 or 2.
    """
    if not set(strides) <= {1, 2}:
        raise ValueError(f"model.strides = {tuple(strides)} must be 1 or 2 each.")
    reduction = math.prod(strides)
    if image_size % reduction:
        lower = image_size // reduction * reduction
        sizes = " or ".join(str(n) for n in (lower, lower + reduction) if n)
        raise ValueError(
            f"model.strides = {tuple(strides)} divide the image by {reduction}, so its "
            f"sides must be multiples of {reduction}, but data.image_size = "
            f"{image_size}: use {sizes}, or other strides."
        )

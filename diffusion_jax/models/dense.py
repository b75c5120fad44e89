"""Fully connected networks: the (variational) autoencoder and a GAN's two players."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

LEAK = 0.2  # slope of LeakyReLU below zero


def append_label(x: Array, label: Array | None, num_classes: int) -> Array:
    """Concatenates the one-hot label to the channels, at every pixel if there are any.

    Args:
      x: [B, ..., C].
      label: i32[B] in 0..num_classes-1; ignored where there are no classes.
      num_classes: K, or 0.

    Returns:
      [B, ..., C + K].

    Raises:
      ValueError: there are classes, but no label.
    """
    if not num_classes:
        return x
    if label is None:
        raise ValueError(
            f"The network has model.num_classes = {num_classes} and needs the labels "
            "beside its input: give label, or make it with num_classes = 0."
        )
    one_hot = jax.nn.one_hot(label, num_classes, dtype=x.dtype)
    aligned = one_hot.reshape(x.shape[0], *(1,) * (x.ndim - 2), num_classes)
    planes = jnp.broadcast_to(aligned, (*x.shape[:-1], num_classes))
    return jnp.concatenate([x, planes], axis=-1)


class DenseAutoencoder(nn.Module):
    """Codes a picture in a few numbers, and back; ReLU between dense layers.

    The decoder mirrors the encoder: 784-500-20-500-784 by default, for 28x28 pixels.

    Attributes:
      image_shape: (H, W, C).
      variational: whether a code is a normal distribution or a point.
      hidden: widths of the encoder's hidden layers.
      num_latents: Z, numbers in a code.

    Source: Kingma and Welling 2014, appendix C, arXiv:1312.6114 (with ReLU).
    """

    image_shape: Sequence[int]
    variational: bool
    hidden: Sequence[int] = (500,)
    num_latents: int = 20

    def setup(self) -> None:
        """Makes the layers."""
        self.encoder = [nn.Dense(width) for width in self.hidden]
        self.mean = nn.Dense(self.num_latents)
        if self.variational:
            self.logvar = nn.Dense(self.num_latents)
        self.decoder = [nn.Dense(width) for width in reversed(self.hidden)]
        self.out = nn.Dense(math.prod(self.image_shape))

    def encode(self, x: Array) -> tuple[Array, Array | None]:
        """Returns a code's mean and log-variance, [B, Z] each, of x [B, H, W, C].

        The log-variance is None where the autoencoder is not variational.
        """
        h = x.reshape(x.shape[0], -1)
        for layer in self.encoder:
            h = nn.relu(layer(h))
        return self.mean(h), self.logvar(h) if self.variational else None

    def decode(self, z: Array) -> Array:
        """Returns raw outputs [B, H, W, C], logits or means, of codes z [B, Z]."""
        for layer in self.decoder:
            z = nn.relu(layer(z))
        return self.out(z).reshape(z.shape[0], *self.image_shape)

    def __call__(self, x: Array) -> Array:
        """Decodes the mean of the code of x [B, H, W, C]."""
        mean, _ = self.encode(x)
        return self.decode(mean)


class MLPGenerator(nn.Module):
    """Turns noise into data of any shape; ReLU between dense layers.

    Attributes:
      image_shape: of one example: (H, W, C), or (2,) for points in the plane.
      hidden: widths of the hidden layers.
      bounded: whether a tanh keeps the output in [-1, 1].
      num_classes: 0, or how many classes it can be told.

    Source: Goodfellow et al. 2014, section 5, arXiv:1406.2661.
    """

    image_shape: Sequence[int]
    hidden: Sequence[int]
    bounded: bool
    num_classes: int = 0

    @nn.compact
    def __call__(
        self, z: Array, label: Array | None = None, train: bool = False
    ) -> Array:
        """Applies the network.

        Args:
          z: [B, Z].
          label: i32[B], where there are classes; its one-hot code is joined to z.
          train: changes nothing here, as in `MLPDiscriminator`; see `DCGANGenerator`.

        Returns:
          [B, *image_shape].
        """
        h = append_label(z, label, self.num_classes)
        for width in self.hidden:
            h = nn.relu(nn.Dense(width)(h))
        x = nn.Dense(math.prod(self.image_shape), name="out")(h)
        x = x.reshape(z.shape[0], *self.image_shape)
        return jnp.tanh(x) if self.bounded else x


class MLPDiscriminator(nn.Module):
    """Says how real an example of any shape looks; LeakyReLU between dense layers.

    Attributes:
      hidden: widths of the hidden layers.
      num_classes: 0, or how many classes it can be told.

    Source: Goodfellow et al. 2014, section 5, arXiv:1406.2661 (with LeakyReLU).
    """

    hidden: Sequence[int]
    num_classes: int = 0

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, train: bool = False
    ) -> Array:
        """Returns logits [B] of x [B, ...] and its label, as in `MLPGenerator`."""
        h = append_label(x.reshape(x.shape[0], -1), label, self.num_classes)
        for width in self.hidden:
            h = nn.leaky_relu(nn.Dense(width)(h), LEAK)
        return nn.Dense(1, name="out")(h)[:, 0]


def mlp_gan(
    image_shape: Sequence[int],
    average: Callable[[Array], Array],
    hidden: Sequence[int],
    bounded: bool,
    num_classes: int,
) -> tuple[MLPGenerator, MLPDiscriminator]:
    """Makes a generator and a discriminator of the same hidden layers.

    They have no batch statistics: `average` is not used.
    """
    generator = MLPGenerator(image_shape, hidden, bounded, num_classes)
    return generator, MLPDiscriminator(hidden, num_classes)

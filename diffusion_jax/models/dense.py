"""Fully connected networks: the (variational) autoencoder and the networks of a GAN."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

LEAK = 0.2  # slope of LeakyReLU below zero


def append_label(x: Array, label: Array | None, num_classes: int) -> Array:
    """Concatenates the one-hot label to the channels, at every position.

    Args:
      x: [B, ..., C].
      label: i32[B] in 0..num_classes-1; ignored where num_classes is 0.
      num_classes: K, or 0 for unconditional networks.

    Returns:
      [B, ..., C + K].

    Raises:
      ValueError: num_classes is positive, but there is no label.
    """
    if not num_classes:
        return x
    if label is None:
        raise ValueError(
            f"model.num_classes = {num_classes}, so the network needs labels: pass "
            "label, or set model.num_classes to 0."
        )
    one_hot = jax.nn.one_hot(label, num_classes, dtype=x.dtype)
    one_hot = one_hot.reshape(x.shape[0], *(1,) * (x.ndim - 2), num_classes)
    planes = jnp.broadcast_to(one_hot, (*x.shape[:-1], num_classes))
    return jnp.concatenate([x, planes], axis=-1)


class DenseAutoencoder(nn.Module):
    """Encodes data of any shape as latent vectors and decodes them.

    ReLU between dense layers; the decoder mirrors the encoder. For 28x28 pixels the
    default widths are 784-500-20-500-784.

    Attributes:
      data_shape: shape of one example, such as (H, W, C) or (2,).
      variational: whether the encoder also outputs a log-variance.
      hidden: widths of the encoder's hidden layers.
      num_latents: Z, the size of a latent vector.

    Source: Kingma and Welling 2014, appendix C, arXiv:1312.6114 (with ReLU).
    """

    data_shape: Sequence[int]
    variational: bool
    hidden: Sequence[int] = (500,)
    num_latents: int = 20

    def setup(self) -> None:
        """Creates the layers."""
        self.encoder = [nn.Dense(width) for width in self.hidden]
        self.mean = nn.Dense(self.num_latents)
        if self.variational:
            self.logvar = nn.Dense(self.num_latents)
        self.decoder = [nn.Dense(width) for width in reversed(self.hidden)]
        self.out = nn.Dense(math.prod(self.data_shape))

    def encode(self, x: Array) -> tuple[Array, Array | None]:
        """Encodes examples as latent distributions.

        Args:
          x: [B, *data_shape].

        Returns:
          Mean [B, Z] and log-variance [B, Z], which is None unless variational.
        """
        h = x.reshape(x.shape[0], -1)
        for layer in self.encoder:
            h = nn.relu(layer(h))
        return self.mean(h), self.logvar(h) if self.variational else None

    def decode(self, z: Array) -> Array:
        """Decodes latents z [B, Z] to unbounded outputs [B, *data_shape].

        They are logits or means, depending on the likelihood.
        """
        for layer in self.decoder:
            z = nn.relu(layer(z))
        return self.out(z).reshape(z.shape[0], *self.data_shape)

    def __call__(self, x: Array) -> Array:
        """Decodes the latent mean of x [B, *data_shape]."""
        return self.decode(self.encode(x)[0])


class MLPGenerator(nn.Module):
    """Generates data of any shape from noise, with ReLU between dense layers.

    Attributes:
      data_shape: shape of one example, such as (H, W, C) or (2,).
      hidden: widths of the hidden layers.
      bounded: whether a tanh keeps the output in [-1, 1].
      num_classes: number of classes to condition on, or 0.

    Source: Goodfellow et al. 2014, section 5, arXiv:1406.2661.
    """

    data_shape: Sequence[int]
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
          label: i32[B] if num_classes > 0; its one-hot encoding is appended to z.
          train: unused; part of the interface that `DCGANGenerator` shares.

        Returns:
          [B, *data_shape].
        """
        h = append_label(z, label, self.num_classes)
        for width in self.hidden:
            h = nn.relu(nn.Dense(width)(h))
        x = nn.Dense(math.prod(self.data_shape), name="out")(h)
        x = x.reshape(z.shape[0], *self.data_shape)
        return jnp.tanh(x) if self.bounded else x


class MLPDiscriminator(nn.Module):
    """Scores data of any shape as real or fake, with LeakyReLU between dense layers.

    Attributes:
      hidden: widths of the hidden layers.
      num_classes: number of classes to condition on, or 0.

    Source: Goodfellow et al. 2014, section 5, arXiv:1406.2661 (with LeakyReLU).
    """

    hidden: Sequence[int]
    num_classes: int = 0

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, train: bool = False
    ) -> Array:
        """Returns logits [B] for x [B, ...]; label and train as in `MLPGenerator`."""
        h = append_label(x.reshape(x.shape[0], -1), label, self.num_classes)
        for width in self.hidden:
            h = nn.leaky_relu(nn.Dense(width)(h), LEAK)
        return nn.Dense(1, name="out")(h)[:, 0]


def mlp_gan(
    data_shape: Sequence[int],
    axis_name: str | None,
    hidden: Sequence[int],
    bounded: bool,
    num_classes: int,
) -> tuple[MLPGenerator, MLPDiscriminator]:
    """Creates a generator and a discriminator with the same hidden layers.

    They have no batch statistics, so axis_name has no effect.
    """
    generator = MLPGenerator(data_shape, hidden, bounded, num_classes)
    return generator, MLPDiscriminator(hidden, num_classes)

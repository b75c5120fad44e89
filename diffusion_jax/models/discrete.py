"""Convolutional autoencoders whose latents are a grid of codes out of a codebook."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from diffusion_jax.models.conv_transpose import ConvTranspose2x

UNIT = nn.initializers.normal(1.0)  # for embeddings, which convolutions read


def nearest(vectors: Array, embedding: Array) -> Array:
    """Returns the index of the nearest row of a codebook.

        argmin_k |z - e_k|^2 = argmin_k |e_k|^2 - 2 z e_k

    Args:
      vectors: z [..., D].
      embedding: e [K, D].

    Returns:
      i32[...].

    Source: van den Oord et al. 2017, equation 1, arXiv:1711.00937.
    """
    products = jnp.matmul(vectors, embedding.T, precision=lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(embedding), axis=1)
    squares = squares.reshape((1,) * (vectors.ndim - 1) + squares.shape)
    return jnp.argmin(squares - 2 * products, axis=-1).astype(jnp.int32)


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), which keeps the shape.

    Source: van den Oord et al. 2017, section 4.1, arXiv:1711.00937.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to the same shape."""
        width = x.shape[-1]
        h = nn.Conv(width, (3, 3))(nn.relu(x))
        return x + nn.Conv(width, (1, 1))(nn.relu(h))


class DiscreteNetwork(nn.Module):
    """The layers that both kinds share, of any size that can be halved often enough.

    The encoder halves the resolution with 4x4 convolutions and ends with residual
    blocks; the decoder mirrors it. As in the dVAE, the layers next to the codes are 1x1
    convolutions: the embeddings are one of a one-hot grid.

    A kind has the methods `codes` (images -> i32[B, h, w]) and `decode` (codes ->
    outputs).

    Attributes:
      data_shape: (H, W, C).
      num_parameters: outputs of the decoder for each value of the data.
      num_codes: K, the size of the codebook.
      num_features: D, the length of an embedding.
      width: channels of all convolutions.
      num_downsamplings: halvings, n; the grid of codes is [H / 2^n, W / 2^n].
      num_blocks: residual blocks of the encoder, and of the decoder.

    Source: van den Oord et al. 2017, section 4.1, arXiv:1711.00937; Ramesh et al. 2021,
    section 2.1, arXiv:2102.12092.
    """

    data_shape: Sequence[int]
    num_parameters: int
    num_codes: int
    num_features: int
    width: int
    num_downsamplings: int
    num_blocks: int

    @property
    def grid(self) -> tuple[int, int]:
        """The height and width (h, w) of the grid of codes."""
        height, width, _ = self.data_shape
        return height >> self.num_downsamplings, width >> self.num_downsamplings

    def setup(self) -> None:
        """Creates the shared layers.

        Raises:
          ValueError: the height or width cannot be halved so often.
        """
        *size, channels = self.data_shape
        factor = 2**self.num_downsamplings
        if any(side % factor for side in size):
            raise ValueError(
                f"model.num_downsamplings = {self.num_downsamplings} reduces images by "
                f"a factor of {factor}, so height and width must be multiples of "
                f"{factor}, but the images are {size[0]}x{size[1]}: choose another "
                "data.image_size, or fewer downsamplings."
            )
        sizes = range(self.num_downsamplings)
        blocks = range(self.num_blocks)
        self.down = [nn.Conv(self.width, (4, 4), strides=2, padding=1) for _ in sizes]
        self.conv_in = nn.Conv(self.width, (3, 3))
        self.encoder_blocks = [ResidualBlock() for _ in blocks]
        self.conv_out = nn.Conv(self.width, (3, 3))
        self.decoder_blocks = [ResidualBlock() for _ in blocks]
        self.up = [ConvTranspose2x(self.width) for _ in sizes]
        self.out = nn.Conv(self.num_parameters * channels, (3, 3))

    def encode_features(self, x: Array) -> Array:
        """Maps images x [B, H, W, C] to the encoder's features [B, h, w, width]."""
        for layer in self.down:
            x = nn.relu(layer(x))
        x = self.conv_in(x)
        for block in self.encoder_blocks:
            x = block(x)
        return nn.relu(x)

    def decode_vectors(self, vectors: Array) -> Array:
        """Decodes embeddings [B, h, w, D] to unbounded outputs.

        Returns:
          [B, H, W, P C], the parameters of the data's likelihood, P for each value.
        """
        h = self.conv_out(vectors)
        for block in self.decoder_blocks:
            h = block(h)
        h = nn.relu(h)
        for layer in self.up:
            h = nn.relu(layer(h))
        return self.out(h)

    def __call__(self, x: Array) -> Array:
        """Decodes the codes of images x [B, H, W, C]."""
        return self.decode(self.codes(x))


class GumbelAutoencoder(DiscreteNetwork):
    """The network of a dVAE: the encoder outputs logits of the codes.

    Source: Ramesh et al. 2021, section 2.1, arXiv:2102.12092.
    """

    def setup(self) -> None:
        """See `DiscreteNetwork`."""
        super().setup()
        self.to_logits = nn.Conv(self.num_codes, (1, 1))
        shape = self.num_codes, self.num_features
        self.embedding = self.param("embedding", UNIT, shape)

    def logits(self, x: Array) -> Array:
        """Returns log q(code | x) up to a constant, [B, h, w, K]."""
        return self.to_logits(self.encode_features(x))

    def codes(self, x: Array) -> Array:
        """Returns the most likely codes of images, i32[B, h, w]."""
        return jnp.argmax(self.logits(x), axis=-1).astype(jnp.int32)

    def decode(self, codes: Array) -> Array:
        """Decodes codes i32[B, h, w]; see `decode_vectors`."""
        return self.decode_vectors(self.embedding[codes])

    def decode_relaxed(self, weights: Array) -> Array:
        """Decodes mixtures of codes, [B, h, w, K] with sum 1; see `decode_vectors`."""
        return self.decode_vectors(weights @ self.embedding)


class VQAutoencoder(DiscreteNetwork):
    """The network of a VQ-VAE: a code is the entry nearest to the encoder's vector.

    The entries are the variable "embedding" [K, D] of the collection "codebook", not
    parameters, since a moving average updates them.

    Source: van den Oord et al. 2017, section 3.1, arXiv:1711.00937.
    """

    def setup(self) -> None:
        """See `DiscreteNetwork`."""
        super().setup()
        self.to_vectors = nn.Conv(self.num_features, (1, 1))
        shape = self.num_codes, self.num_features
        self.codebook = self.variable(
            "codebook", "embedding", lambda: UNIT(self.make_rng("params"), shape)
        )

    def vectors(self, x: Array) -> Array:
        """Returns the encoder's vectors of images, [B, h, w, D]."""
        return self.to_vectors(self.encode_features(x))

    def codes(self, x: Array) -> Array:
        """Returns the codes of images, i32[B, h, w]."""
        return nearest(self.vectors(x), self.codebook.value)

    def decode(self, codes: Array) -> Array:
        """Decodes codes i32[B, h, w]; see `decode_vectors`."""
        return self.decode_vectors(self.codebook.value[codes])

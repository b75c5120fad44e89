"""CLIP: an image encoder and a text encoder with a common space of embeddings."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.models.text_encoder import TextEncoder

INITIAL_TEMPERATURE = 0.07
MAX_LOG_SCALE = math.log(100)


class Embeddings(NamedTuple):
    """Images and captions in the common space.

    Attributes:
      image: [B, E], of norm 1.
      text: [B, E], of norm 1.
      scale: [], the inverse temperature of their similarities, at most 100.
    """

    image: Array
    text: Array
    scale: Array


class CLIP(nn.Module):
    """Embeds images and captions.

    Images pass through convolutions of stride 2 and a hidden layer, captions through
    `TextEncoder`; both are projected and normalised. The last feature map is flattened
    instead of pooled, since captions may say where objects are.

    Attributes:
      vocabulary_size: of the captions.
      channels: output channels of each convolution; each halves the resolution.
      caption_width: width of the text encoder and of the hidden layer of images.
      caption_layers: layers of the text encoder.
      caption_heads: heads of its attention.
      num_features: E, the width of the embeddings.

    Source: Radford et al. 2021, sections 2.3 to 2.5, arXiv:2103.00020.
    """

    vocabulary_size: int
    channels: Sequence[int]
    caption_width: int
    caption_layers: int
    caption_heads: int
    num_features: int

    @nn.compact
    def __call__(self, image: Array, caption: Array) -> Embeddings:
        """Embeds images [B, H, W, C] and captions i32[B, L]."""
        x = image
        for channels in self.channels:
            x = nn.relu(nn.Conv(channels, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(self.caption_width)(x.reshape(x.shape[0], -1)))
        text = TextEncoder(
            self.vocabulary_size,
            self.caption_layers,
            self.caption_heads,
            self.caption_width,
            dropout=0.0,
        )(caption).pooled
        init = nn.initializers.constant(-math.log(INITIAL_TEMPERATURE))
        log_scale = self.param("log_scale", init, ())
        # The gradient passes the limit, so that the scale can decrease again; the
        # parameter itself has no limit.
        excess = jax.lax.stop_gradient(nn.relu(log_scale - MAX_LOG_SCALE))
        return Embeddings(
            normalise(nn.Dense(self.num_features, False, name="image")(x)),
            normalise(nn.Dense(self.num_features, False, name="text")(text)),
            jnp.exp(log_scale - excess),
        )


def normalise(x: Array) -> Array:
    """Scales vectors [B, E] to norm 1; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True) + 1e-12)

"""A Transformer that encodes captions, for networks that are conditioned on them."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.models import positions
from diffusion_jax.models.transformer import EPSILON, GPTLayer, residual_init
from diffusion_jax.special_tokens import PAD


class EncodedText(NamedTuple):
    """A caption that has been encoded.

    Attributes:
      tokens: [B, L, width].
      pooled: [B, width], their mean.
      mask: bool[B, 1, 1, L], False where queries may not attend.
    """

    tokens: Array
    pooled: Array
    mask: Array


class TextEncoder(nn.Module):
    """Encodes captions by self-attention over their tokens.

    The layers are those of GPT-2, as in CLIP (Radford et al. 2021, section 2.4,
    arXiv:2103.00020), but without the causal mask. They are pre-norm: with post-norm
    layers, one of two diffusion models of composed pictures ignored the classes.

    A caption of padding only is the null caption of classifier-free guidance: all of
    its positions are attended to, with the learned embedding of padding.

    Attributes:
      vocabulary_size: V.
      num_layers: of self-attention and MLPs.
      num_heads: of each layer.
      width: of embeddings and layers, even.
      dropout: rate of what each part of a layer adds.
      dtype: of activations.
    """

    vocabulary_size: int
    num_layers: int
    num_heads: int
    width: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, caption: Array, index: Array | None = None) -> EncodedText:
        """Encodes captions, i32[B, L], padded at their ends.

        Args:
          caption: tokens.
          index: i32[B] if dropout is active.

        Raises:
          ValueError: the width is odd, or no multiple of the number of heads.
        """
        if self.width % 2 or self.width % self.num_heads:
            raise ValueError(
                f"model.caption_width = {self.width} must be even and a multiple of "
                f"model.caption_heads = {self.num_heads}: change one of them."
            )
        init = nn.initializers.normal(1.0)
        embed = nn.Embed(
            self.vocabulary_size, self.width, embedding_init=init, dtype=self.dtype
        )
        x = embed(caption)
        encoded = positions.sinusoidal(jnp.arange(caption.shape[1]), self.width)
        x += jnp.broadcast_to(encoded[None].astype(x.dtype), x.shape)
        is_token = caption != PAD
        is_token |= ~jnp.any(is_token, axis=1, keepdims=True)
        mask = is_token[:, None, None]
        for _ in range(self.num_layers):
            x, _ = GPTLayer(
                self.num_heads,
                self.width,
                dropout=self.dropout,
                out_init=residual_init(self.num_layers),
                dtype=self.dtype,
            )(x, mask, index=index)
        x = nn.LayerNorm(EPSILON, dtype=self.dtype)(x)
        weights = is_token / jnp.sum(is_token, axis=1, keepdims=True)
        pooled = jnp.einsum("bl,blc->bc", weights.astype(x.dtype), x)
        return EncodedText(x, pooled, mask)

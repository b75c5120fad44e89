"""Transformers: a decoder as language model (GPT), and the encoder-decoder."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer
from jax import Array, lax
from jax.typing import DTypeLike

from diffusion_jax.lookup import lookup
from diffusion_jax.models import positions
from diffusion_jax.models.attention import attention, attention_weights
from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.precision import at_least_float32

PAD = 0  # as in data.vocabulary
EPSILON = 1e-5  # of layer normalisation, as in PyTorch
POSITIONS = dict.fromkeys(("learned", "rotary"))  # of GPT


class KeysValues(NamedTuple):
    """What queries attend to: keys and values, [B, H, S, C] each."""

    keys: Array
    values: Array

    @classmethod
    def empty(
        cls, batch_size: int, num_heads: int, length: int, size: int, dtype: DTypeLike
    ) -> "KeysValues":
        """Returns zeros, of `size` channels per head."""
        zeros = jnp.zeros((batch_size, num_heads, length, size), dtype)
        return cls(zeros, zeros)

    def write(self, new: "KeysValues", position: Array) -> "KeysValues":
        """Returns a copy in which those of one position, [B, H, 1, C], are new."""
        pairs = zip(self, new, strict=True)
        update = lax.dynamic_update_slice_in_dim
        return KeysValues(*(update(x, y, position, axis=2) for x, y in pairs))


class MultiHeadAttention(nn.Module):
    """Several heads of attention between linear layers.

    Attributes:
      num_heads: H.
      width: of inputs and outputs, a multiple of H.
      rotary: whether queries and keys are rotated by their positions.
      kernel_init: of queries, keys and values.
      out_init: of the output.
      dtype: of activations.

    Source: Vaswani et al. 2017, section 3.2.2, arXiv:1706.03762; with biases.
    """

    num_heads: int
    width: int
    rotary: bool = False
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer = nn.initializers.xavier_uniform()
    dtype: DTypeLike = jnp.float32

    def setup(self):
        if self.width % self.num_heads:
            raise ValueError(
                f"model.width = {self.width} must be a multiple of model.num_heads = "
                f"{self.num_heads}: change one of them."
            )
        if self.rotary and self.width // self.num_heads % 2:
            raise ValueError(
                "model.positions rotary needs an even width per head, and model.width "
                f"/ model.num_heads is {self.width // self.num_heads}: change one of "
                "them."
            )
        self.query = nn.Dense(
            self.width, kernel_init=self.kernel_init, dtype=self.dtype
        )
        self.key = nn.Dense(self.width, kernel_init=self.kernel_init, dtype=self.dtype)
        self.value = nn.Dense(
            self.width, kernel_init=self.kernel_init, dtype=self.dtype
        )
        self.out = nn.Dense(self.width, kernel_init=self.out_init, dtype=self.dtype)

    def keys_values(self, x: Array, position: Array | None = None) -> KeysValues:
        """Returns the keys and values of inputs.

        Args:
          x: [B, S, width].
          position: i32[B or 1, S], if rotary.
        """
        return KeysValues(
            self._heads(self.key(x), position), self._heads(self.value(x))
        )

    def __call__(
        self,
        x: Array,
        keys_values: KeysValues,
        mask: Array | None,
        position: Array | None = None,
    ) -> Array:
        """Attends to keys and values.

        Args:
          x: [B, T, width], whose queries attend.
          keys_values: of S inputs.
          mask: bool[B or 1, 1, T or 1, S]; see `attention`.
          position: i32[B or 1, T], if rotary.

        Returns:
          [B, T, width].
        """
        query = self._heads(self.query(x), position)
        heads = attention(query, *keys_values, mask)
        return self.out(heads.swapaxes(1, 2).reshape(x.shape))

    def weights(self, x: Array, keys_values: KeysValues, mask: Array | None) -> Array:
        """Returns how much each head attends to what, f32[B, H, T, S]."""
        return attention_weights(self._heads(self.query(x)), keys_values.keys, mask)

    def _heads(self, x: Array, position: Array | None = None) -> Array:
        """Splits [B, L, width] into heads [B, H, L, C], and rotates them."""
        x = x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)
        if self.rotary and position is not None:
            x = positions.rotate(x, position)
        return x


class MLP(nn.Module):
    """Two linear layers, at each position.

    Attributes:
      hidden: width of the layer between.
      width: of the output.
      activation: after the first layer.
      kernel_init: of the first layer.
      out_init: of the second layer.
      dtype: of activations.
    """

    hidden: int
    width: int
    activation: Callable[[Array], Array]
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer = nn.initializers.xavier_uniform()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the layers to x [B, L, width]."""
        x = nn.Dense(
            self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="hidden"
        )(x)
        return nn.Dense(
            self.width, kernel_init=self.out_init, dtype=self.dtype, name="out"
        )(self.activation(x))


class GPTLayer(nn.Module):
    """Self-attention and an MLP, each added to its input after a normalisation.

        x = x + attention(norm(x)),    x = x + mlp(norm(x))

    Attributes:
      num_heads: of the attention.
      width: of inputs and outputs.
      rotary: see `MultiHeadAttention`.
      dropout: rate, before both sums.
      out_init: of the last linear layer before either sum.
      dtype: of activations.
    """

    num_heads: int
    width: int
    rotary: bool
    dropout: float
    out_init: Initializer
    dtype: DTypeLike

    def setup(self):
        options = {
            "kernel_init": nn.initializers.normal(0.02),
            "out_init": self.out_init,
            "dtype": self.dtype,
        }
        self.norm1 = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.attention = MultiHeadAttention(
            self.num_heads, self.width, self.rotary, **options
        )
        self.norm2 = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.mlp = MLP(4 * self.width, self.width, nn.gelu, **options)
        self.drop = ExampleDropout(self.dropout)

    def __call__(
        self,
        x: Array,
        mask: Array,
        position: Array,
        index: Array | None,
        cache: KeysValues | None = None,
    ) -> tuple[Array, KeysValues]:
        """Applies the layer.

        Args:
          x: [B, L, width].
          mask: bool[B or 1, 1, L, S], what each position may attend to.
          position: i32[B or 1, L].
          index: i32[B] if dropout is active.
          cache: of S positions, if L is 1; None: S is L.

        Returns:
          [B, L, width], and the keys and values of S positions.
        """
        h = self.norm1(x)
        keys_values = self.attention.keys_values(h, position)
        if cache is not None:
            keys_values = cache.write(keys_values, position[0, 0])
        x += self.drop(self.attention(h, keys_values, mask, position), index)
        x += self.drop(self.mlp(self.norm2(x)), index)
        return x, keys_values


class GPT(nn.Module):
    """A language model: a stack of causal self-attention and MLPs.

    The embeddings are also the weights of the logits.

    Attributes:
      vocabulary_size: V.
      context: the most tokens that it reads.
      num_layers: N.
      num_heads: of each layer.
      width: of the embeddings and of every layer.
      positions: a name in POSITIONS.
      dropout: rate of the embeddings and of what each layer adds.
      dtype: of activations.

    Source: Radford et al. 2019, section 2.3, "Language Models are Unsupervised
    Multitask Learners" (GPT-2). What a layer adds is initialised with the standard
    deviation 0.02 / sqrt(2 N).
    """

    vocabulary_size: int
    context: int
    num_layers: int
    num_heads: int
    width: int
    positions: str
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self):
        lookup(POSITIONS, self.positions, "model.positions")
        init = nn.initializers.normal(0.02)
        options = {"embedding_init": init, "dtype": self.dtype}
        self.embed = nn.Embed(self.vocabulary_size, self.width, **options)
        if self.positions == "learned":
            self.embed_position = nn.Embed(self.context, self.width, **options)
        self.drop = ExampleDropout(self.dropout)
        self.layers = [
            GPTLayer(
                self.num_heads,
                self.width,
                self.positions == "rotary",
                self.dropout,
                nn.initializers.normal(0.02 / (2 * self.num_layers) ** 0.5),
                self.dtype,
            )
            for _ in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm(EPSILON, dtype=self.dtype)

    def __call__(
        self, tokens: Array, segment: Array | None = None, index: Array | None = None
    ) -> Array:
        """Returns the logits of the token after each one.

        Args:
          tokens: i32[B, L].
          segment: i32[B, L], the document of each token: it sees no other, and its
            position counts from the beginning. None: one document.
          index: i32[B] if dropout is active.

        Returns:
          f32[B, L, V].

        Raises:
          ValueError: L is larger than the context.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(
                f"The model reads at most model.context = {self.context} tokens, and "
                f"there are {length}: set data.context to {self.context} or less."
            )
        position, mask = jnp.arange(length)[None], causal_mask(length)
        if segment is not None:
            position = positions.restarting(segment)
            mask &= (segment[:, :, None] == segment[:, None, :])[:, None]
        return self._run([None] * self.num_layers, tokens, mask, position, index)[0]

    def init_cache(self, batch_size: int) -> list[KeysValues]:
        """Returns the keys and values of all layers before the first token."""
        head_width = self.width // self.num_heads
        shape = batch_size, self.num_heads, self.context, head_width
        return [KeysValues.empty(*shape, self.dtype) for _ in self.layers]

    def step(
        self, cache: list[KeysValues], token: Array, position: Array
    ) -> tuple[Array, list[KeysValues]]:
        """Reads one token.

        Args:
          cache: of the tokens before.
          token: i32[B].
          position: i32[], of all rows, less than the context.

        Returns:
          Logits of the next token, f32[B, V], and the new cache.
        """
        mask = (jnp.arange(self.context) <= position)[None, None, None]
        now = jnp.reshape(position, (1, 1))
        logits, cache = self._run(cache, token[:, None], mask, now, None)
        return logits[:, 0], cache

    def _run(
        self,
        cache: list[KeysValues | None],
        tokens: Array,
        mask: Array,
        position: Array,
        index: Array | None,
    ) -> tuple[Array, list[KeysValues]]:
        x, new = self.embed(tokens), []
        if self.positions == "learned":
            x += jnp.broadcast_to(self.embed_position(position), x.shape)
        x = self.drop(x, index)
        for layer, old in zip(self.layers, cache, strict=True):
            x, keys_values = layer(x, mask, position, index, old)
            new.append(keys_values)
        return at_least_float32(self.embed.attend(self.norm(x))), new


def causal_mask(length: int) -> Array:
    """Returns bool[1, 1, L, L]: a position attends to itself and those before it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]

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
from diffusion_jax.special_tokens import PAD

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
        """Returns a copy with those of one position, [B, H, 1, C], replaced."""
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

    def setup(self) -> None:
        """Creates the layers.

        Raises:
          ValueError: the width cannot be divided among the heads, or into pairs.
        """
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

        def dense(init: Initializer) -> nn.Dense:
            return nn.Dense(self.width, kernel_init=init, dtype=self.dtype)

        self.query = dense(self.kernel_init)
        self.key = dense(self.kernel_init)
        self.value = dense(self.kernel_init)
        self.out = dense(self.out_init)

    def keys_values(self, x: Array, position: Array | None = None) -> KeysValues:
        """Returns the keys and values of inputs.

        Args:
          x: [B, S, width].
          position: i32[B or 1, S], if rotary.
        """
        keys = self._rotated(self._heads(self.key(x)), position)
        return KeysValues(keys, self._heads(self.value(x)))

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
        query = self._rotated(self._heads(self.query(x)), position)
        heads = attention(query, *keys_values, mask)
        return self.out(heads.swapaxes(1, 2).reshape(x.shape))

    def weights(self, x: Array, keys_values: KeysValues, mask: Array | None) -> Array:
        """Returns the attention weights, f32[B, H, T, S], if not rotary."""
        query = self._rotated(self._heads(self.query(x)), None)
        return attention_weights(query, keys_values.keys, mask)

    def _heads(self, x: Array) -> Array:
        """Splits [B, L, width] into heads [B, H, L, C]."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)

    def _rotated(self, heads: Array, position: Array | None) -> Array:
        """Rotates queries or keys by their positions, if rotary.

        Raises:
          ValueError: it is rotary, and there are no positions.
        """
        if not self.rotary:
            return heads
        if position is None:
            raise ValueError("Rotary attention needs the positions of its inputs.")
        return positions.rotate(heads, position)


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
      dropout: rate, before both sums.
      out_init: of the last linear layer before either sum; see `residual_init`.
      dtype: of activations.
      rotary: see `MultiHeadAttention`.
    """

    num_heads: int
    width: int
    dropout: float
    out_init: Initializer
    dtype: DTypeLike
    rotary: bool = False

    def setup(self) -> None:
        """Creates the layers."""
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
        position: Array | None = None,
        index: Array | None = None,
        cache: KeysValues | None = None,
    ) -> tuple[Array, KeysValues]:
        """Applies the layer.

        Args:
          x: [B, L, width].
          mask: bool[B or 1, 1, L or 1, S], what each position may attend to.
          position: i32[B or 1, L]; required if rotary, and with a cache.
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

    Input and output embeddings are tied.

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
    Multitask Learners" (GPT-2).
    """

    vocabulary_size: int
    context: int
    num_layers: int
    num_heads: int
    width: int
    positions: str
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Creates the layers."""
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
                self.dropout,
                residual_init(self.num_layers),
                self.dtype,
                rotary=self.positions == "rotary",
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
            position = positions.segment_positions(segment)
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


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each added to its input before a normalisation.

        x = norm(x + attention(x)),    x = norm(x + mlp(x))

    Attributes:
      num_heads: of the attention.
      width: of inputs and outputs.
      hidden: of the MLP.
      dropout: rate, before both sums.
      dtype: of activations.
    """

    num_heads: int
    width: int
    hidden: int
    dropout: float
    dtype: DTypeLike

    def setup(self) -> None:
        """Creates the layers."""
        self.attention = MultiHeadAttention(
            self.num_heads, self.width, dtype=self.dtype
        )
        self.norm1 = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.mlp = MLP(self.hidden, self.width, nn.relu, dtype=self.dtype)
        self.norm2 = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.drop = ExampleDropout(self.dropout)

    def __call__(self, x: Array, mask: Array, index: Array | None) -> Array:
        """Applies the layer.

        Args:
          x: [B, S, width].
          mask: bool[B, 1, 1, S], False at padding.
          index: i32[B] if dropout is active.

        Returns:
          [B, S, width].
        """
        y = self.attention(x, self.attention.keys_values(x), mask)
        x = self.norm1(x + self.drop(y, index))
        return self.norm2(x + self.drop(self.mlp(x), index))


class DecoderLayer(nn.Module):
    """An `EncoderLayer` that also attends to the source, between the other two parts.

    Attributes:
      num_heads: of both attentions.
      width: of inputs and outputs.
      hidden: of the MLP.
      dropout: rate, before the three sums.
      dtype: of activations.
    """

    num_heads: int
    width: int
    hidden: int
    dropout: float
    dtype: DTypeLike

    def setup(self) -> None:
        """Creates the layers."""
        heads = self.num_heads, self.width
        self.attention = MultiHeadAttention(*heads, dtype=self.dtype)
        self.norm1 = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.cross_attention = MultiHeadAttention(*heads, dtype=self.dtype)
        self.norm2 = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.mlp = MLP(self.hidden, self.width, nn.relu, dtype=self.dtype)
        self.norm3 = nn.LayerNorm(EPSILON, dtype=self.dtype)
        self.drop = ExampleDropout(self.dropout)

    def attend_to_target(
        self,
        x: Array,
        mask: Array,
        index: Array | None,
        cache: KeysValues | None = None,
        position: Array | None = None,
    ) -> tuple[Array, KeysValues]:
        """Applies the self-attention.

        Args:
          x: [B, T, width].
          mask: bool[1, 1, T, L], what each position may attend to.
          index: i32[B] if dropout is active.
          cache: of L positions, if T is 1; None: L is T.
          position: i32[], where the cache is written.

        Returns:
          [B, T, width], and the keys and values of L positions.
        """
        keys_values = self.attention.keys_values(x)
        if cache is not None:
            keys_values = cache.write(keys_values, position)
        y = self.attention(x, keys_values, mask)
        return self.norm1(x + self.drop(y, index)), keys_values

    def attend_to_source(
        self, x: Array, source: KeysValues, mask: Array, index: Array | None
    ) -> Array:
        """Applies the attention to the source, and the MLP.

        Args:
          x: [B, T, width].
          source: its keys and values, see `cross_attention`.
          mask: bool[B, 1, 1, S], False at padding.
          index: i32[B] if dropout is active.

        Returns:
          [B, T, width].
        """
        y = self.cross_attention(x, source, mask)
        x = self.norm2(x + self.drop(y, index))
        return self.norm3(x + self.drop(self.mlp(x), index))


class Memory(NamedTuple):
    """A source that has been encoded.

    Attributes:
      encoded: [B, S, width].
      mask: bool[B, 1, 1, S], False at padding.
    """

    encoded: Array
    mask: Array


class DecoderCache(NamedTuple):
    """What a decoder attends to.

    Attributes:
      target: of each layer, keys and values of the target so far, of fixed length.
      source: of each layer, keys and values of the source.
      mask: bool[B, 1, 1, S], False at the source's padding.
    """

    target: list[KeysValues]
    source: list[KeysValues]
    mask: Array


class Transformer(nn.Module):
    """Encodes a source and decodes a target, as published.

    Input embeddings are scaled by sqrt(width); input and output embeddings are tied.

    Attributes:
      vocabulary_size: V, of the target.
      source_vocabulary_size: of the source; None: it shares the target's embeddings.
      num_layers: of the encoder, and of the decoder.
      num_heads: of each attention.
      width: of the embeddings and of every layer, even.
      mlp_width: hidden width of the MLPs.
      dropout: rate of the embeddings and of what each part of a layer adds.
      dtype: of activations.

    Source: Vaswani et al. 2017, section 3, arXiv:1706.03762.
    """

    vocabulary_size: int
    source_vocabulary_size: int | None
    num_layers: int
    num_heads: int
    width: int
    mlp_width: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Creates the layers; raises ValueError if the width is odd."""
        if self.width % 2:
            raise ValueError(
                f"model.width = {self.width} must be even, for the sines and cosines "
                "of the positions."
            )

        def embed(size: int) -> nn.Embed:
            init = nn.initializers.normal(self.width**-0.5)
            return nn.Embed(size, self.width, embedding_init=init, dtype=self.dtype)

        options = self.num_heads, self.width, self.mlp_width, self.dropout, self.dtype
        self.embed = embed(self.vocabulary_size)
        if self.source_vocabulary_size is not None:
            self.embed_source = embed(self.source_vocabulary_size)
        self.drop = ExampleDropout(self.dropout)
        self.encoder = [EncoderLayer(*options) for _ in range(self.num_layers)]
        self.decoder = [DecoderLayer(*options) for _ in range(self.num_layers)]

    def __call__(
        self, source: Array, target: Array, index: Array | None = None
    ) -> Array:
        """Returns the logits of the token after each one of the target.

        Args:
          source: i32[B, S], padded at its end.
          target: i32[B, T], from END on, padded at its end.
          index: i32[B] if dropout is active.

        Returns:
          f32[B, T, V].
        """
        memory, mask = self.encode(source, index), causal_mask(target.shape[1])
        x = self._embed(self.embed, target, index)
        for layer in self.decoder:
            keys_values = layer.cross_attention.keys_values(memory.encoded)
            x, _ = layer.attend_to_target(x, mask, index)
            x = layer.attend_to_source(x, keys_values, memory.mask, index)
        return self._logits(x)

    def encode(self, source: Array, index: Array | None = None) -> Memory:
        """Encodes a source.

        Args:
          source: i32[B, S], padded at its end.
          index: i32[B] if dropout is active.
        """
        shared = self.source_vocabulary_size is None
        mask = (source != PAD)[:, None, None]
        x = self._embed(self.embed if shared else self.embed_source, source, index)
        for layer in self.encoder:
            x = layer(x, mask, index)
        return Memory(x, mask)

    def init_cache(self, memory: Memory, length: int) -> DecoderCache:
        """Returns the cache before the first token of the target.

        Args:
          memory: the encoded source.
          length: the most tokens of the target that will be read.
        """
        head_width = self.width // self.num_heads
        shape = len(memory.encoded), self.num_heads, length, head_width
        return DecoderCache(
            [KeysValues.empty(*shape, self.dtype) for _ in self.decoder],
            [x.cross_attention.keys_values(memory.encoded) for x in self.decoder],
            memory.mask,
        )

    def step(
        self, cache: DecoderCache, token: Array, position: Array
    ) -> tuple[Array, DecoderCache]:
        """Reads one token of the target.

        Args:
          cache: of the tokens before.
          token: i32[B].
          position: i32[], of all rows, less than the cache's length.

        Returns:
          Logits of the next token, f32[B, V], and the new cache.
        """
        length = cache.target[0].keys.shape[2]
        mask = (jnp.arange(length) <= position)[None, None, None]
        x = self._embed(self.embed, token[:, None], None, position)
        new = []
        for layer, old, source in zip(
            self.decoder, cache.target, cache.source, strict=True
        ):
            x, keys_values = layer.attend_to_target(x, mask, None, old, position)
            x = layer.attend_to_source(x, source, cache.mask, None)
            new.append(keys_values)
        return self._logits(x)[:, 0], cache._replace(target=new)

    def alignment(self, source: Array, target: Array) -> Array:
        """Returns how much each token of the target attends to each of the source.

        Args:
          source: i32[B, S].
          target: i32[B, T].

        Returns:
          f32[B, layers * heads, T, S], the heads of the first layer first.
        """
        memory, mask = self.encode(source), causal_mask(target.shape[1])
        x, found = self._embed(self.embed, target, None), []
        for layer in self.decoder:
            keys_values = layer.cross_attention.keys_values(memory.encoded)
            x, _ = layer.attend_to_target(x, mask, None)
            found.append(layer.cross_attention.weights(x, keys_values, memory.mask))
            x = layer.attend_to_source(x, keys_values, memory.mask, None)
        return jnp.concatenate(found, axis=1)

    def _embed(
        self, embed: nn.Embed, tokens: Array, index: Array | None, start: Array = 0
    ) -> Array:
        position = start + jnp.arange(tokens.shape[1])
        encoded = positions.sinusoidal(position, self.width)[None]
        x = embed(tokens) * self.width**0.5
        x += jnp.broadcast_to(encoded.astype(x.dtype), x.shape)
        return self.drop(x, index)

    def _logits(self, x: Array) -> Array:
        return at_least_float32(self.embed.attend(x))


def residual_init(num_layers: int) -> Initializer:
    """Returns the initialiser of the last linear layer of each residual branch.

    N layers have two branches each; the standard deviation is 0.02 / sqrt(2 N), as in
    GPT-2.
    """
    return nn.initializers.normal(0.02 / (2 * num_layers) ** 0.5)


def causal_mask(length: int) -> Array:
    """Returns bool[1, 1, L, L]: a position attends to itself and those before it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]

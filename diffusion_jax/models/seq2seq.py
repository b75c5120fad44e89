"""Recurrent encoders and decoders, with and without attention."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from diffusion_jax.lookup import lookup
from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.precision import at_least_float32
from diffusion_jax.models.recurrent import CELLS, Recurrent, State
from diffusion_jax.special_tokens import PAD


class Memory(NamedTuple):
    """What a decoder attends to.

    Attributes:
      values: [B, S, 2 H], the outputs of the encoder.
      keys: [B, S, H], their projection, which queries are compared with.
      mask: bool[B, S], False where the source is padded.
    """

    values: Array
    keys: Array
    mask: Array


class Cache(NamedTuple):
    """What a decoder knows of the source and of the tokens before.

    Attributes:
      memory: of the source; None without attention.
      states: of the decoder's layers.
    """

    memory: Memory | None
    states: list[State]


def attend(scores: Array, memory: Memory) -> tuple[Array, Array]:
    """Averages the encoder's outputs, weighted by how well they match a query.

        alpha = softmax(scores),    c = sum_j alpha_j h_j    over j that are no padding

    Args:
      scores: [B, S] or [B, T, S].
      memory: of S tokens.

    Returns:
      The contexts c, [B, 2 H] or [B, T, 2 H], and the weights alpha, at least float32
      [B, S] or [B, T, S].

    Source: Bahdanau et al. 2015, equations 5 and 6, arXiv:1409.0473.
    """
    scores = at_least_float32(scores)
    mask = jnp.expand_dims(memory.mask, tuple(range(1, scores.ndim - 1)))
    weights = nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=-1)
    of_values = weights.astype(memory.values.dtype)
    return jnp.einsum("b...s,bsh->b...h", of_values, memory.values), weights


class AdditiveDecoder(nn.Module):
    """A recurrent layer whose next input depends on where its state attends to.

        e_ij = v . tanh(W s_i-1 + U h_j),    alpha_i, c_i = attend(e_i)
        s_i = f(s_i-1, y_i-1, c_i)

    Attributes:
      cell: f, a name in `recurrent.CELLS`.
      width: H.
      dtype: of activations; parameters and the state stay float32.

    Source: Bahdanau et al. 2015, section 3.1 and appendix A.1.2, arXiv:1409.0473.
    """

    cell: str
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, state: State, memory: Memory
    ) -> tuple[Array, State, Array, Array]:
        """Runs over a sequence.

        Args:
          x: [B, T, F], the embeddings of y_0 to y_T-1.
          state: s_0.
          memory: of S tokens; its keys are U h_j.

        Returns:
          s_1 to s_T, [B, T, H], the last state, the contexts [B, T, 2 H], and the
          weights alpha [B, T, S].
        """
        cell = CELLS[self.cell]
        gates = cell.num_gates * self.width
        uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

        def kernel(name: str, *shape: int) -> Array:
            return self.param(name, uniform, shape).astype(self.dtype)

        inputs = nn.Dense(gates, use_bias=False, dtype=self.dtype, name="input")(x)
        of_context = kernel("context", memory.values.shape[-1], gates)
        recurrent = kernel("recurrent", self.width, gates)
        query = kernel("query", self.width, self.width)
        score = kernel("score", self.width, 1)
        bias = self.param("bias", nn.initializers.zeros, (4 * self.width,))

        def step(state: State, inputs: Array) -> tuple[State, tuple[Array, ...]]:
            of_state = state[0].astype(self.dtype) @ query
            scores = jnp.tanh(of_state[:, None] + memory.keys) @ score
            context, weights = attend(scores[..., 0], memory)
            state = cell.step(state, inputs + context @ of_context, recurrent, bias)
            return state, (state[0], context, weights)

        state, outputs = lax.scan(step, state, inputs.swapaxes(0, 1))
        states, contexts, weights = (x.swapaxes(0, 1) for x in outputs)
        return states.astype(self.dtype), state, contexts, weights


class RecurrentSeq2Seq(nn.Module):
    """A bidirectional recurrent encoder, and a decoder with or without attention.

    Its first states are a function of the encoder's last ones. The logits are

        U tanh(W [s_i; c_i] + b) + b_u,    c_i = attend(scores of s_i-1 or s_i)

    with the contexts c_i of `AdditiveDecoder`, or of scores s_i W h_j
    ("multiplicative"), or without any ("none").

    Attributes:
      source_vocabulary_size: of the source; None: it shares the target's embeddings.
      vocabulary_size: V, of the target.
      cell: a name in `recurrent.CELLS`.
      num_layers: of the encoder and of the decoder, at least 1; additive attention is
        in the decoder's first one, multiplicative attention above its last one.
      width: H, of the embeddings, of the decoder, and of each direction of the encoder.
      attention: a name in ATTENTIONS.
      dropout: rate before each layer and before the logits.
      dtype: of activations.

    Source: Bahdanau et al. 2015, arXiv:1409.0473 (additive); Luong et al. 2015,
    section 3.1, equations 5 and 8 ("general"), arXiv:1508.04025 (multiplicative).
    """

    source_vocabulary_size: int | None
    vocabulary_size: int
    cell: str
    num_layers: int
    width: int
    attention: str
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the layers; raises ValueError if a name is unknown."""
        lookup(ATTENTIONS, self.attention, "model.attention")
        lookup(CELLS, self.cell, "model.cell")
        embedding = nn.initializers.normal(self.width**-0.5)

        def embed(size: int) -> nn.Embed:
            return nn.Embed(
                size, self.width, embedding_init=embedding, dtype=self.dtype
            )

        def dense(width: int, use_bias: bool = True) -> nn.Dense:
            return nn.Dense(width, use_bias=use_bias, dtype=self.dtype)

        def layer(reverse: bool = False) -> Recurrent:
            return Recurrent(self.cell, self.width, self.dtype, reverse)

        every = range(self.num_layers)
        self.embed_target = embed(self.vocabulary_size)
        if self.source_vocabulary_size is not None:
            self.embed_source = embed(self.source_vocabulary_size)
        self.forward = [layer() for _ in every]
        self.backward = [layer(reverse=True) for _ in every]
        num_states = CELLS[self.cell].num_states
        self.bridge = [[dense(self.width) for _ in range(num_states)] for _ in every]
        first = layer()
        if self.attention == "additive":
            first = AdditiveDecoder(self.cell, self.width, self.dtype)
        self.decoder = [first, *(layer() for _ in every[1:])]
        self.keys = dense(self.width, use_bias=False)
        self.combine = dense(self.width)
        self.head = dense(self.vocabulary_size)
        self.drop = ExampleDropout(self.dropout)

    def __call__(
        self, source: Array, target: Array, index: Array | None = None
    ) -> Array:
        """Returns the logits of the token after each one of the target.

        Args:
          source: i32[B, S], padded with PAD.
          target: i32[B, T], END and the tokens.
          index: i32[B] if dropout is active.

        Returns:
          f32[B, T, V].
        """
        return self._run(self._encode(source, index), target, index)[0]

    def encode(self, source: Array) -> Cache:
        """Returns what the decoder needs of a source, i32[B, S]."""
        return self._encode(source, None)

    def init_cache(self, memory: Cache, length: int) -> Cache:
        """Returns the cache before the first token: it has room for any number."""
        return memory

    def step(self, cache: Cache, token: Array, position: Array) -> tuple[Array, Cache]:
        """Reads one token, i32[B]; returns logits f32[B, V] and the new cache."""
        logits, cache, _ = self._run(cache, token[:, None], None)
        return logits[:, 0], cache

    def alignment(self, source: Array, target: Array) -> Array:
        """Returns the weights of attention, f32[B, 1, T, S].

        Row i is where the network attends to for the token after target i.

        Raises:
          ValueError: there is no attention.
        """
        _, _, weights = self._run(self.encode(source), target, None)
        if weights is None:
            raise ValueError(
                "A network with model.attention 'none' has no alignment: use additive "
                "or multiplicative."
            )
        return weights[:, None]

    def _encode(self, source: Array, index: Array | None) -> Cache:
        shared = self.source_vocabulary_size is None
        embed = self.embed_target if shared else self.embed_source
        mask, x, states = source != PAD, embed(source), []
        layers = zip(self.forward, self.backward, self.bridge, strict=True)
        for forward, backward, bridge in layers:
            x, zeros = self.drop(x, index), forward.initial(len(source))
            ahead, last = forward(x, zeros, mask)
            behind, first = backward(x, zeros, mask)
            x = jnp.concatenate([ahead, behind], axis=-1)
            initial = []
            for dense, *ends in zip(bridge, last, first, strict=True):
                state = jnp.tanh(dense(jnp.concatenate(ends, axis=-1)))
                initial.append(at_least_float32(state))
            states.append(tuple(initial))
        if self.attention == "none":
            return Cache(None, states)
        return Cache(Memory(x, self.keys(x), mask), states)

    def _run(
        self, cache: Cache, target: Array, index: Array | None
    ) -> tuple[Array, Cache, Array | None]:
        memory, states = cache.memory, []
        x, context, weights = self.embed_target(target), None, None
        for layer, state in zip(self.decoder, cache.states, strict=True):
            x = self.drop(x, index)
            if isinstance(layer, AdditiveDecoder):
                x, state, context, weights = layer(x, state, memory)
            else:
                x, state = layer(x, state)
            states.append(state)
        if self.attention == "multiplicative":
            scores = jnp.einsum("bth,bsh->bts", x, memory.keys)
            context, weights = attend(scores, memory)
        if context is not None:
            x = jnp.concatenate([x, context], axis=-1)
        x = self.drop(jnp.tanh(self.combine(x)), index)
        return at_least_float32(self.head(x)), Cache(memory, states), weights


ATTENTIONS = dict.fromkeys(("none", "additive", "multiplicative"))

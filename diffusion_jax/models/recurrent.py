"""Recurrent networks: LSTM and GRU layers, and a language model of them."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from diffusion_jax.lookup import lookup
from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.precision import at_least_float32

State = tuple[Array, ...]  # [B, H] each: (h, c) of an LSTM, (h,) of a GRU


def lstm(state: State, inputs: Array, recurrent: Array, bias: Array) -> State:
    """One step of a long short-term memory.

        i, f, g, o = split(W x + U h + b)
        c' = sigmoid(f) c + sigmoid(i) tanh(g),    h' = sigmoid(o) tanh(c')

    Args:
      state: (h, c), [B, H] each.
      inputs: W x, [B, 4 H].
      recurrent: U, [H, 4 H].
      bias: b, [4 H].

    Returns:
      (h', c').

    Source: Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, with the
    forget gate of Gers et al. 2000.
    """
    h, c = state
    i, f, g, o = jnp.split(inputs + h @ recurrent + bias[None], 4, axis=-1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def gru(state: State, inputs: Array, recurrent: Array, bias: Array) -> State:
    """One step of a gated recurrent unit.

        r = sigmoid(W_r x + U_r h + b_r),    z = sigmoid(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n + r (U_n h + b_u)),    h' = (1 - z) n + z h

    The reset gate acts after the product with U_n, as in cuDNN and PyTorch.

    Args:
      state: (h,), [B, H].
      inputs: W x, [B, 3 H], in the order r, z, n.
      recurrent: U, [H, 3 H].
      bias: b_r, b_z, b_n and b_u, [4 H].

    Returns:
      (h',).

    Source: Cho et al. 2014, equations 5 to 8, arXiv:1406.1078.
    """
    (h,) = state
    of_input, of_hidden = jnp.split(bias[None], [inputs.shape[-1]], axis=1)
    r_x, z_x, n_x = jnp.split(inputs + of_input, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(h @ recurrent, 3, axis=-1)
    r, z = nn.sigmoid(r_x + r_h), nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + r * (n_h + of_hidden))
    return ((1 - z) * n + z * h,)


class Cell(NamedTuple):
    """A kind of recurrent step.

    Attributes:
      step: (state, inputs, recurrent, bias) -> state; state[0] is the output.
      num_gates: blocks of H columns in the kernels.
      num_states: arrays in the state.
    """

    step: Callable[[State, Array, Array, Array], State]
    num_gates: int
    num_states: int


CELLS = {"lstm": Cell(lstm, 4, 2), "gru": Cell(gru, 3, 1)}


class Recurrent(nn.Module):
    """A recurrent layer.

    Attributes:
      cell: a name in CELLS.
      width: H.
      dtype: of activations; parameters and the state stay float32.
      reverse: whether it reads from the end to the beginning.
    """

    cell: str
    width: int
    dtype: DTypeLike = jnp.float32
    reverse: bool = False

    def initial(self, batch_size: int) -> State:
        """Returns the state before the first input: zeros."""
        zeros = jnp.zeros((batch_size, self.width))
        return (zeros,) * lookup(CELLS, self.cell, "model.cell").num_states

    @nn.compact
    def __call__(
        self,
        x: Array,
        state: State,
        mask: Array | None = None,
        reset: Array | None = None,
    ) -> tuple[Array, State]:
        """Runs over a sequence.

        Args:
          x: [B, L, F].
          state: before the first input.
          mask: bool[B, L]; where it is False the state does not change. None: nowhere.
          reset: bool[B, L]; where it is True the state is zero before the input.

        Returns:
          The outputs [B, L, H], and the state after the last input.
        """
        cell = CELLS[self.cell]
        gates = cell.num_gates * self.width
        inputs = nn.Dense(gates, use_bias=False, dtype=self.dtype, name="input")(x)
        recurrent = self.param(
            "recurrent",
            nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
            (self.width, gates),
        )
        bias = self.param("bias", nn.initializers.zeros, (4 * self.width,))
        recurrent = recurrent.astype(self.dtype)

        def step(
            state: State, now: tuple[Array, Array | None, Array | None]
        ) -> tuple[State, Array]:
            inputs, mask, reset = now
            if reset is not None:
                state = tuple(jnp.where(reset[:, None], 0, x) for x in state)
            new = cell.step(state, inputs, recurrent, bias)
            if mask is not None:
                pairs = zip(new, state, strict=True)
                new = tuple(jnp.where(mask[:, None], x, old) for x, old in pairs)
            return new, new[0]

        over_time = jax.tree.map(lambda x: x.swapaxes(0, 1), (inputs, mask, reset))
        state, outputs = lax.scan(step, state, over_time, reverse=self.reverse)
        return outputs.swapaxes(0, 1).astype(self.dtype), state


class RecurrentLM(nn.Module):
    """A language model of stacked recurrent layers.

    Attributes:
      vocabulary_size: V.
      cell: a name in CELLS.
      num_layers: at least 1.
      width: of the embeddings and of every layer.
      tied: whether input and output embeddings are tied.
      dropout: rate before each layer and before the logits.
      dtype: of activations.
    """

    vocabulary_size: int
    cell: str
    num_layers: int
    width: int
    tied: bool
    dropout: float
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the layers."""
        self.embed = nn.Embed(
            self.vocabulary_size,
            self.width,
            embedding_init=nn.initializers.normal(self.width**-0.5),
            dtype=self.dtype,
        )
        self.layers = [
            Recurrent(self.cell, self.width, self.dtype) for _ in range(self.num_layers)
        ]
        self.drop = ExampleDropout(self.dropout)
        if not self.tied:
            self.head = nn.Dense(self.vocabulary_size, dtype=self.dtype)

    def __call__(
        self, tokens: Array, segment: Array | None = None, index: Array | None = None
    ) -> Array:
        """Returns the logits of the token after each one.

        Args:
          tokens: i32[B, L].
          segment: i32[B, L], the document of each token; the state is zero where a new
            one begins. None: one document.
          index: i32[B] if dropout is active.

        Returns:
          f32[B, L, V].
        """
        reset = None
        if segment is not None:
            before = jnp.pad(segment, ((0, 0), (1, 0)))[:, :-1]
            reset = segment != before
        cache = self.init_cache(len(tokens))
        logits, _ = self._run(cache, tokens, reset, index)
        return logits

    def init_cache(self, batch_size: int) -> list[State]:
        """Returns the states of all layers before the first token."""
        return [layer.initial(batch_size) for layer in self.layers]

    def step(
        self, cache: list[State], token: Array, position: Array
    ) -> tuple[Array, list[State]]:
        """Reads one token, i32[B]; returns logits f32[B, V] and the new states."""
        logits, cache = self._run(cache, token[:, None], None, None)
        return logits[:, 0], cache

    def _run(
        self,
        cache: list[State],
        tokens: Array,
        reset: Array | None,
        index: Array | None,
    ) -> tuple[Array, list[State]]:
        x, states = self.embed(tokens), []
        for layer, state in zip(self.layers, cache, strict=True):
            x, state = layer(self.drop(x, index), state, reset=reset)
            states.append(state)
        x = self.drop(x, index)
        logits = self.embed.attend(x) if self.tied else self.head(x)
        return at_least_float32(logits), states

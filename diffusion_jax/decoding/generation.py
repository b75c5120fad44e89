"""Token by token generation over a cache of fixed shape."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.decoding.choices import Choose

PAD, END = 0, 1  # as in data.vocabulary
Cache = Any  # a pytree of arrays [B, ...] of fixed shape


class Decoder(NamedTuple):
    """A model of the next token that remembers the ones before.

    Attributes:
      init: () -> the cache before the first token.
      step: (cache, token i32[B], position i32[]) -> (logits f32[B, V] of the next
        token, cache). All rows are at the same position, which counts from 0.
    """

    init: Callable[[], Cache]
    step: Callable[[Cache, Array, Array], tuple[Array, Cache]]


def generate(
    decoder: Decoder, prompt: Array, num_tokens: int, choose: Choose, keys: Array
) -> Array:
    """Continues prompts by one token after the other.

    The tokens of a prompt pass through the decoder like those that are drawn, so
    prompts may have different lengths. A row ends with END, or after num_tokens.

    Args:
      decoder: of B rows.
      prompt: i32[B, P], each at least one token long, padded with PAD at its end.
      num_tokens: the most that a row is continued by, at least 1.
      choose: how a token is drawn from logits.
      keys: [B], of the rows; a row depends only on its prompt and its key.

    Returns:
      i32[B, P + num_tokens]: the prompt, its continuation, and then PAD.
    """
    length = jnp.sum(prompt != PAD, axis=1)
    size = prompt.shape[1] + num_tokens
    given = jnp.pad(prompt, ((0, 0), (0, num_tokens)))

    def body(
        carry: tuple[Cache, Array, Array], position: Array
    ) -> tuple[tuple[Cache, Array, Array], Array]:
        cache, token, ended = carry
        logits, cache = decoder.step(cache, token, position)
        drawn = choose(logits.at[:, PAD].set(-jnp.inf), prng.fold_in(keys, position))
        is_given = position + 1 < length
        ended |= position + 1 >= length + num_tokens
        token = jnp.where(ended, PAD, drawn.astype(prompt.dtype))
        token = jnp.where(is_given, given[:, position + 1], token)
        ended |= ~is_given & (token == END)
        return (cache, token, ended), token

    start = decoder.init(), prompt[:, 0], jnp.zeros(len(prompt), bool)
    _, tokens = lax.scan(body, start, jnp.arange(size - 1))
    return jnp.concatenate([prompt[:, :1], tokens.T], axis=1)

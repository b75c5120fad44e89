"""Token by token generation over a cache of fixed shape."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffusion_jax.decoding.token_samplers import TokenSampler
from diffusion_jax.special_tokens import END, PAD

Cache = Any  # a pytree of arrays [B, ...] of fixed shape


class Decoder(NamedTuple):
    """A model of the next token that remembers the ones before.

    Every array of a cache has the rows as its leading axis, so that rows can be
    repeated and exchanged. `step` works on any number of them. It has to mask the
    logits of tokens that are not allowed at a position.

    Attributes:
      init: () -> the cache of B rows before the first token.
      step: (cache, token i32[B], position i32[]) -> (logits f32[B, V] of the next
        token, cache). All rows are at the same position, which counts from 0.
      max_length: the number of positions that `step` knows; None: any number.
    """

    init: Callable[[], Cache]
    step: Callable[[Cache, Array, Array], tuple[Array, Cache]]
    max_length: int | None = None


def classifier_free(cond: Decoder, null: Decoder, scale: float) -> Decoder:
    """Guides a decoder by another one, which does not know the condition.

        logits = null + scale (cond - null),    1: cond

    Tokens that a decoder does not allow keep probability 0.

    Args:
      cond: a decoder of B rows with their conditions.
      null: of the same rows without.
      scale: of the guidance.

    Source: Gafni et al. 2022, section 3.4, arXiv:2203.13131, after Ho and Salimans
    2022, equation 6, arXiv:2207.12598.
    """

    def step(
        cache: tuple[Cache, Cache], token: Array, position: Array
    ) -> tuple[Array, tuple[Cache, Cache]]:
        given, of_cond = cond.step(cache[0], token, position)
        without, of_null = null.step(cache[1], token, position)
        guided = without + scale * (given - without)
        return jnp.where(jnp.isneginf(given), given, guided), (of_cond, of_null)

    return Decoder(lambda: (cond.init(), null.init()), step, cond.max_length)


def generate(
    decoder: Decoder, prompt: Array, num_tokens: int, choose: TokenSampler, keys: Array
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

    Raises:
      ValueError: they are longer than the decoder's limit.
    """
    check_length(decoder, prompt, num_tokens)
    tokens = jnp.pad(prompt, ((0, 0), (0, num_tokens)))
    first = jnp.zeros(len(prompt), jnp.int32)
    return decode_window(
        decoder, tokens, first, lengths(prompt) + num_tokens, choose, keys
    )


def generate_beyond_context(
    decoder: Decoder, prompt: Array, num_tokens: int, choose: TokenSampler, keys: Array
) -> Array:
    """Continues prompts beyond the decoder's limit of C positions.

    A row begins at its first token. When it is longer than C, the decoder starts anew
    with its last C // 2 tokens as the prompt, as often as necessary. What fits into C
    positions is exactly what `generate` returns.

    Args:
      decoder: of B rows.
      prompt: see `generate`; it may be longer than C.
      num_tokens: see `generate`.
      choose: see `generate`.
      keys: see `generate`.

    Returns:
      i32[B, P + num_tokens], see `generate`.

    Raises:
      ValueError: C is less than 2, and something does not fit.
    """
    limit, size = decoder.max_length, prompt.shape[1] + num_tokens
    if limit is None or size <= limit + 1:
        return generate(decoder, prompt, num_tokens, choose, keys)
    if limit < 2:
        check_length(decoder, prompt, num_tokens)
    keep, window = limit // 2, limit + 1  # the last token is drawn, but not read
    given = lengths(prompt)

    def round_(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        tokens, ended = carry
        length = lengths(tokens)
        first = jnp.where(length <= limit, 0, length - keep)
        index = first[:, None] + jnp.arange(window)[None]
        seen = jnp.take_along_axis(tokens, index, axis=1, mode="fill", fill_value=PAD)
        last = jnp.where(ended, length, given + num_tokens)
        seen = decode_window(decoder, seen, first, last, choose, keys)
        rows = jnp.arange(len(tokens))[:, None]
        tokens = tokens.at[rows, index].set(seen, mode="drop")
        last_token = jnp.take_along_axis(tokens, lengths(tokens)[:, None] - 1, axis=1)
        return (tokens, ended | (last_token[:, 0] == END)), None

    # The first round adds the fewest tokens if a prompt is as long as possible; every
    # further one adds window - keep.
    fewest = max(1, window - prompt.shape[1])
    rounds = 1 + -(-(num_tokens - fewest) // (window - keep))
    start = jnp.pad(prompt, ((0, 0), (0, num_tokens))), jnp.zeros(len(prompt), bool)
    (tokens, _), _ = lax.scan(round_, start, length=rounds)
    return tokens


def decode_window(
    decoder: Decoder,
    tokens: Array,
    first: Array,
    limit: Array,
    choose: TokenSampler,
    keys: Array,
) -> Array:
    """Replaces the padding of rows by tokens that are drawn.

    Args:
      decoder: of B rows.
      tokens: i32[B, L], each with at least one token, and PAD after its tokens.
      first: i32[B], the place of the row's first token in its whole text; a token's
        random numbers depend on the row's key and on the token's place in the text.
      limit: i32[B], the greatest length of each row's whole text.
      choose: how a token is drawn from logits.
      keys: [B].

    Returns:
      i32[B, L]: given tokens stay. A row that ends with END, or at its limit, has PAD
      after it.
    """
    length = lengths(tokens)

    def body(
        carry: tuple[Cache, Array, Array], position: Array
    ) -> tuple[tuple[Cache, Array, Array], Array]:
        cache, token, ended = carry
        logits, cache = decoder.step(cache, token, position)
        place = first + position
        here = jax.vmap(jax.random.fold_in)(keys, place)
        drawn = choose(mask_padding(logits), here).astype(tokens.dtype)
        is_given = position + 1 < length
        ended |= place + 1 >= limit
        token = jnp.where(ended, PAD, drawn)
        token = jnp.where(is_given, tokens[:, position + 1], token)
        ended |= ~is_given & (token == END)
        return (cache, token, ended), token

    start = decoder.init(), tokens[:, 0], jnp.zeros(len(tokens), bool)
    _, found = lax.scan(body, start, jnp.arange(tokens.shape[1] - 1))
    return jnp.concatenate([tokens[:, :1], found.T], axis=1)


def lengths(tokens: Array) -> Array:
    """Counts the tokens of each row, i32[B, L], that are not padding: i32[B]."""
    return jnp.sum(tokens != PAD, axis=1, dtype=jnp.int32)


def mask_padding(logits: Array) -> Array:
    """Returns logits [..., V] with which padding is never drawn."""
    return logits.at[..., PAD].set(-jnp.inf)


def check_length(decoder: Decoder, prompt: Array, num_tokens: int) -> None:
    """Checks that a decoder has a position for every token but the last.

    Raises:
      ValueError: it has fewer.
    """
    limit, size = decoder.max_length, prompt.shape[1] + num_tokens
    if limit is not None and size > limit + 1:
        raise ValueError(
            f"A prompt of {prompt.shape[1]} tokens and sample.num_tokens = {num_tokens}"
            f" need {size - 1} positions, and the network has {limit}: set "
            f"sample.num_tokens to {max(limit + 1 - prompt.shape[1], 1)} or less, "
            "or train with a larger data.context."
        )

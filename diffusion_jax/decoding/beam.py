"""Beam search: the most likely of several continuations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffusion_jax.decoding.generation import (
    Cache,
    Decoder,
    check_length,
    lengths,
    mask_padding,
)
from diffusion_jax.special_tokens import END, PAD


class Beam(NamedTuple):
    """The hypotheses of each row, K of them; the first one is the greedy one.

    Attributes:
      cache: of the decoder, of B * K rows.
      tokens: i32[B, K, L], padded.
      log_p: f32[B, K], of the tokens after the prompt; -inf: there is no hypothesis.
      ended: bool[B, K].
    """

    cache: Cache
    tokens: Array
    log_p: Array
    ended: Array


def beam_search(
    decoder: Decoder,
    prompt: Array,
    num_tokens: int,
    beam_size: int,
    length_penalty: float = 0.0,
) -> tuple[Array, Array]:
    """Searches for the continuations of prompts with the highest scores.

        score = log p(continuation | prompt) / ((5 + length) / 6)^length_penalty

    At each step the K best of all one-token continuations are kept. A hypothesis that
    has ended stays, with its score. The greedy continuation always has one of the K
    places: pure beam search can lose it and then find something worse, whereas here a
    beam of 1 is greedy decoding, and no beam scores below it. The other K - 1 places
    are those of pure beam search.

    Args:
      decoder: of B rows.
      prompt: i32[B, P], each at least one token long, padded with PAD at its end.
      num_tokens: the most that a row is continued by, at least 1.
      beam_size: K, at least 1.
      length_penalty: at least 0; 0 ranks by log p, which favours short continuations.

    Returns:
      i32[B, K, P + num_tokens], the prompt, a continuation, and then PAD, and the
      scores f32[B, K], best first; -inf where there are fewer than K continuations.

    Raises:
      ValueError: they are longer than the decoder's limit.

    Source: Wu et al. 2016 (GNMT), equation 14 without coverage, arXiv:1609.08144.
    """
    check_length(decoder, prompt, num_tokens)
    batch_size, num_beams = len(prompt), beam_size
    given = jnp.pad(prompt, ((0, 0), (0, num_tokens)))
    prompt_length = lengths(prompt)
    rows = jnp.arange(batch_size)[:, None]

    def score(log_p: Array, length: Array) -> Array:
        return log_p / ((5 + length) / 6) ** length_penalty

    def body(beam: Beam, position: Array) -> tuple[Beam, None]:
        token = beam.tokens[:, :, position].reshape(-1)
        logits, cache = decoder.step(beam.cache, token, position)
        logits = mask_padding(logits).reshape(batch_size, num_beams, -1)
        vocabulary = jnp.arange(logits.shape[-1])
        ended = beam.ended | (position + 1 >= prompt_length + num_tokens)[:, None]
        only_pad = jnp.where(vocabulary == PAD, 0.0, -jnp.inf)[None, None]
        log_p = jnp.where(ended[..., None], only_pad, jax.nn.log_softmax(logits))
        log_p = (beam.log_p[..., None] + log_p).reshape(batch_size, -1)
        # Continuations of the same hypothesis have the same length.
        length = jnp.sum(beam.tokens != PAD, axis=2) - prompt_length[:, None] + ~ended
        rank = score(log_p, jnp.repeat(length, len(vocabulary), axis=1))
        greedy = jnp.argmax(logits[:, 0], axis=-1)
        greedy = jnp.where(ended[:, 0], PAD, greedy)
        _, best = lax.top_k(rank.at[rows[:, 0], greedy].set(jnp.inf), num_beams)

        # Every hypothesis reads the prompt.
        is_given = (position + 1 < prompt_length)[:, None]
        parent = jnp.where(
            is_given, jnp.arange(num_beams)[None], best // len(vocabulary)
        )
        token = jnp.where(
            is_given, given[:, position + 1, None], best % len(vocabulary)
        )
        log_p = jnp.where(is_given, beam.log_p, log_p[rows, best])
        of_parent = (rows * num_beams + parent).reshape(-1)
        tokens = beam.tokens[rows, parent].at[:, :, position + 1].set(token)
        ended = ended[rows, parent] | (~is_given & (token == END))
        cache = jax.tree.map(lambda x: x[of_parent], cache)
        return Beam(cache, tokens, log_p, ended), None

    shape = batch_size, num_beams
    tokens = jnp.zeros((*shape, given.shape[1]), prompt.dtype)
    start = Beam(
        jax.tree.map(lambda x: jnp.repeat(x, num_beams, axis=0), decoder.init()),
        tokens.at[:, :, 0].set(prompt[:, :1]),
        jnp.full(shape, -jnp.inf).at[:, 0].set(0.0),  # they are equal: one is enough
        jnp.zeros(shape, bool),
    )
    beam, _ = lax.scan(body, start, jnp.arange(given.shape[1] - 1))
    length = jnp.sum(beam.tokens != PAD, axis=2) - prompt_length[:, None]
    scores, order = lax.top_k(score(beam.log_p, length), num_beams)
    return beam.tokens[rows, order], scores

"""Laws of drawing tokens, one after the other, within a decoder's limit and beyond."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_decoder as toy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffusion_jax.decoding import token_samplers
from diffusion_jax.decoding.generation import (
    Decoder,
    generate,
    generate_beyond_context,
)
from diffusion_jax.special_tokens import END, PAD

SIZE, NUM_TOKENS = 6, 7  # of the vocabulary, of continuations
PROMPTS = np.array([[1, 2, 3, 4], [1, 0, 0, 0], [1, 5, 0, 0], [2, 2, 2, 2]], np.int32)
WEIGHTS = toy.weights_of(0, 12, SIZE)


@functools.partial(jax.jit, static_argnames=("num_tokens", "options"))
def draw(prompts, keys, num_tokens=NUM_TOKENS, options=(), weights=WEIGHTS):
    """Continuations by `generate` with (temperature, top_k, top_p)."""
    decoder = toy.decoder_of(weights, len(prompts))
    choose = token_samplers.make(*options)
    return generate(decoder, jnp.asarray(prompts), num_tokens, choose, keys)


def test_greedy_takes_the_most_likely():
    """Temperature 0, top_k = 1 and a tiny top_p all give the tokens of the greatest
    log p by NumPy, whatever the keys."""
    expected = np.asarray(draw(PROMPTS, toy.keys_of(4), options=(0.0,)))
    for options in ((1.0, 1), (1.0, 0, 1e-6), (1e-4,)):
        found = draw(PROMPTS, toy.keys_of(4, seed=1), options=options)
        np.testing.assert_array_equal(found, expected)
    for row, prompt in zip(expected, PROMPTS, strict=True):
        text, length = toy.unpadded(row), len(toy.unpadded(prompt))
        likely = toy.log_probabilities(WEIGHTS, text[:-1]).argmax(axis=1)
        assert text[length:] == tuple(likely[length - 1 :])


@pytest.mark.parametrize("options", [(), (0.5, 0, 1.0), (2.0, 3, 1.0), (1.0, 0, 0.7)])
def test_frequencies_follow_the_softmax(options):
    """Chi-square: the first and second of 8,000 drawn tokens have the probabilities of
    the softmax of logits / temperature over the tokens that are kept (p > 1e-4)."""
    number, prompt = 8000, (1, 4)
    tokens = np.tile(np.array(prompt, np.int32), (number, 1))
    found = np.asarray(draw(tokens, toy.keys_of(number, 5), 2, options))[:, 2:]
    temperature, top_k, top_p = (*options, *(1.0, 0, 1.0)[len(options) :])

    def expected(text):
        p = np.exp(toy.log_probabilities(WEIGHTS, text)[-1] / temperature)
        order = np.argsort(-p)
        p[order[top_k or SIZE :]] = 0
        p /= p.sum()
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= top_p]] = 0
        return p / p.sum()

    first = expected(prompt)
    check_frequencies(np.bincount(found[:, 0], minlength=SIZE), first)
    likely = int(np.argmax(np.where(np.arange(SIZE) == END, 0, first)))
    second = found[found[:, 0] == likely, 1]
    check_frequencies(np.bincount(second, minlength=SIZE), expected((*prompt, likely)))


def check_frequencies(counts, p):
    assert not counts[p == 0].any()
    counts, p = counts[p > 0], p[p > 0]
    if len(p) > 1:
        assert stats.chisquare(counts, counts.sum() * p).pvalue > 1e-4


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-5, 5, width=16), min_size=6, max_size=6),
    st.integers(1, 8),
    st.floats(0.01, 1.0),
)
def test_what_is_kept(logits, k, p):
    """top-k keeps the k largest and ties with the last of them; top-p keeps the most
    likely tokens, whose probability reaches p, and would not without the last of them;
    both leave the kept logits as they are, and p = 1 keeps all."""
    logits = np.array([logits], np.float32)
    by_k = np.asarray(token_samplers.keep_top_k(logits, k))[0]
    lowest = np.sort(logits[0])[::-1][min(k, 6) - 1]
    np.testing.assert_array_equal(
        by_k, np.where(logits[0] >= lowest, logits, -np.inf)[0]
    )
    by_p = np.asarray(token_samplers.keep_top_p(logits, p))[0]
    kept = np.isfinite(by_p)
    np.testing.assert_array_equal(by_p[kept], logits[0][kept])
    probability = np.exp(logits[0].astype(np.float64))
    probability /= probability.sum()
    assert probability[kept].sum() >= p - 1e-5
    least = logits[0][kept].min()
    assert np.all(logits[0][~kept] < least)
    assert probability[logits[0] > least].sum() < p + 1e-5
    whole = np.asarray(token_samplers.keep_top_p(logits, 1.0))
    assert np.isfinite(whole).all()


def test_each_row_is_as_alone():
    """Batch-mates, padding and the length of other prompts change nothing: a row
    depends only on its prompt and its key."""
    keys = toy.keys_of(len(PROMPTS))
    together = draw(PROMPTS, keys)
    for i, prompt in enumerate(PROMPTS):
        prompt = np.array([toy.unpadded(prompt)], np.int32)
        alone = np.asarray(draw(prompt, keys[i : i + 1]))[0]
        assert toy.unpadded(together[i]) == toy.unpadded(alone)
        assert len(toy.unpadded(alone)) <= prompt.shape[1] + NUM_TOKENS


@pytest.mark.parametrize("seed", range(3))
def test_ends(seed):
    """A row ends with END or after num_tokens, then has only padding; the prompt stays;
    padding is never drawn, even where it is by far the most likely."""
    weights = WEIGHTS.copy()
    weights[:, :, PAD] = 20.0
    found = np.asarray(draw(PROMPTS, toy.keys_of(4, seed), weights=weights))
    for row, prompt in zip(found, PROMPTS, strict=True):
        text, prompt = toy.unpadded(row), toy.unpadded(prompt)
        drawn = text[len(prompt) :]
        assert text[: len(prompt)] == prompt
        assert END not in drawn[:-1]
        assert drawn[-1] == END or len(drawn) == NUM_TOKENS


LIMIT = 5


@functools.partial(jax.jit, static_argnames=("num_tokens", "limit"))
def draw_in_rounds(prompts, keys, num_tokens, weights, limit=LIMIT):
    decoder = toy.decoder_of(weights, len(prompts), limit)
    prompts = jnp.asarray(prompts)
    return generate_beyond_context(
        decoder, prompts, num_tokens, token_samplers.greedy, keys
    )


def by_hand(weights, prompt, num_tokens):
    """The rule of the rounds, in Python: the greedy token given the whole text so far
    while it fits, else given the text since the last time that it was cut."""
    text, seen = list(prompt), list(prompt)
    while len(text) < len(prompt) + num_tokens:
        if len(seen) > LIMIT:
            seen = seen[-(LIMIT // 2) :]
        token = int(toy.log_probabilities(weights, seen)[-1].argmax())
        text, seen = [*text, token], [*seen, token]
        if token == END:
            break
    return tuple(text)


LONG = np.array([[1, 2, 3, 4, 5, 2, 3], [1, 2, 3, 4, 5, 0, 0], [3, 0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("num_tokens", [1, 4, 9, 20])
@pytest.mark.parametrize("ends", [False, True])
def test_rounds(num_tokens, ends):
    """Beyond its limit a decoder of five positions goes on from the last two tokens:
    prompts that are shorter, as long as, and longer than the limit, as by hand."""
    prompts = LONG.astype(np.int32)
    weights = toy.weights_of(3, LIMIT, SIZE)
    weights[:, :, END] += 0.0 if ends else -40.0
    found = draw_in_rounds(prompts, toy.keys_of(3), num_tokens, weights)
    texts = [by_hand(weights, toy.unpadded(x), num_tokens) for x in prompts]
    assert [toy.unpadded(x) for x in found] == texts
    assert found.shape == (3, 7 + num_tokens)
    if not ends:
        assert [len(x) for x in texts] == [x + num_tokens for x in (7, 5, 1)]


@pytest.mark.parametrize("limit", [10, 11, 30, None])
def test_what_fits_needs_no_rounds(limit):
    """Within the limit, the rounds are `generate`, with its random numbers; and the
    first token beyond is drawn, since nothing needs to read it."""
    keys, choose = toy.keys_of(4), token_samplers.make(1.0)
    decoder = toy.decoder_of(WEIGHTS, 4, limit)
    found = generate_beyond_context(
        decoder, jnp.asarray(PROMPTS), NUM_TOKENS, choose, keys
    )
    np.testing.assert_array_equal(found, draw(PROMPTS, keys))


def test_rows_in_rounds_are_as_alone():
    """Batch-mates change nothing in rounds, either, though rows start anew at different
    times; random numbers belong to places in the text."""
    weights, choose = toy.weights_of(4, LIMIT, SIZE), token_samplers.make(1.5)
    keys = toy.keys_of(4, 2)

    def rounds(prompts, keys):
        decoder = toy.decoder_of(weights, len(prompts), LIMIT)
        return generate_beyond_context(decoder, jnp.asarray(prompts), 12, choose, keys)

    together = rounds(PROMPTS, keys)
    for i, prompt in enumerate(PROMPTS):
        alone = rounds(np.array([toy.unpadded(prompt)], np.int32), keys[i : i + 1])
        assert toy.unpadded(together[i]) == toy.unpadded(alone[0])


def test_beyond_the_limit():
    """`generate` refuses what does not fit, and says what would; a limit of one
    position leaves no half to go on from."""
    for limit, run in ((9, generate), (1, generate_beyond_context)):
        decoder = Decoder(lambda: (), lambda *_: None, limit)
        words = f"sample.num_tokens = 7 need 10 positions.* has {limit}.*data.context"
        with pytest.raises(ValueError, match=words):
            run(decoder, jnp.asarray(PROMPTS), 7, token_samplers.greedy, toy.keys_of(4))

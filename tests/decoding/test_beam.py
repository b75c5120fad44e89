"""Laws of beam search: against every continuation, and against greedy decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_decoder as toy
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.decoding import token_samplers
from diffusion_jax.decoding.beam import beam_search
from diffusion_jax.decoding.generation import generate
from diffusion_jax.special_tokens import END

SIZE, NUM_TOKENS = 4, 3  # of the vocabulary, of continuations
PROMPTS = np.array([[1, 2, 3], [1, 0, 0], [1, 3, 0]], np.int32)
ALL = (SIZE - 1) ** NUM_TOKENS


@functools.partial(jax.jit, static_argnames=("beam_size", "penalty"))
def search(weights, beam_size, penalty=0.0, prompts=PROMPTS):
    decoder = toy.decoder_of(weights, len(prompts))
    return beam_search(decoder, jnp.asarray(prompts), NUM_TOKENS, beam_size, penalty)


@jax.jit
def greedy(weights, prompts=PROMPTS):
    decoder, keys = toy.decoder_of(weights, len(prompts)), toy.keys_of(len(prompts))
    choose = token_samplers.make(temperature=0)
    return generate(decoder, jnp.asarray(prompts), NUM_TOKENS, choose, keys)


def weights_of(seed):
    return toy.weights_of(seed, PROMPTS.shape[1] + NUM_TOKENS, SIZE, scale=2.0)


def score_of(log_p, length, penalty):
    """Wu et al. 2016, equation 14."""
    return log_p / ((5 + length) ** penalty / (5 + 1) ** penalty)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 3.0])
def test_a_beam_of_all_is_an_exhaustive_search(penalty):
    """With a place for every continuation, the beam lists exactly those that brute
    force does, in their order, with their scores; the places left over have -inf."""
    for seed in range(5):
        weights = weights_of(seed)
        found, scores = search(weights, ALL, penalty)
        for row, of_row, prompt in zip(found, scores, PROMPTS, strict=True):
            prompt = toy.unpadded(prompt)
            every = toy.continuations(weights, prompt, NUM_TOKENS)
            expected = {x: score_of(p, len(x), penalty) for x, p in every.items()}
            ordered = sorted(expected, key=expected.get, reverse=True)
            number = len(expected)
            assert np.all(np.isneginf(of_row[number:]))
            texts = [toy.unpadded(x) for x in row[:number]]
            assert texts == [(*prompt, *x) for x in ordered]
            values = [expected[x] for x in ordered]
            np.testing.assert_allclose(of_row[:number], values, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.6, 2.0]))
def test_never_below_greedy(seed, penalty):
    """A beam of 1 is greedy decoding; every beam holds the greedy continuation, so that
    none scores below it; the scores fall, and are those of their texts."""
    weights = weights_of(seed)
    alone = np.asarray(greedy(weights))
    for beam_size in (1, 2, 3):
        found, scores = (np.asarray(x) for x in search(weights, beam_size, penalty))
        if beam_size == 1:
            np.testing.assert_array_equal(found[:, 0], alone)
            of_greedy = scores[:, 0]
        assert np.all(scores[:, 0] >= of_greedy)
        assert np.all(np.diff(scores, axis=1) <= 0)
        assert np.all((found == alone[:, None]).all(axis=2).any(axis=1))
        for row, of_row, prompt in zip(found, scores, PROMPTS, strict=True):
            prompt = toy.unpadded(prompt)
            every = toy.continuations(weights, prompt, NUM_TOKENS)
            texts = [toy.unpadded(x)[len(prompt) :] for x in row]
            assert len(set(texts)) == len(texts)
            values = [score_of(every[x], len(x), penalty) for x in texts]
            np.testing.assert_allclose(of_row, values, rtol=1e-4, atol=1e-4)


def search_by_hand(weights, prompt, beam_size, penalty=0.0, pure=False):
    """[(score, text)], best first, in Python; pure: greedy has no place of its own."""

    def score(hypothesis):
        log_p, text = hypothesis
        return score_of(log_p, len(text) - len(prompt), penalty)

    beam = [(0.0, tuple(prompt))]
    for _ in range(NUM_TOKENS):
        longer = []
        for log_p, text in beam:
            if text[-1] == END and len(text) > len(prompt):
                longer.append((log_p, text))
                continue
            next_ = toy.log_probabilities(weights, text)[-1]
            likely = sorted(range(1, SIZE), key=lambda i: -next_[i])
            longer += [(log_p + next_[i], (*text, i)) for i in likely]
        first, others = ([], longer) if pure else (longer[:1], longer[1:])
        others = sorted(others, key=score, reverse=True)
        beam = first + others[: beam_size - len(first)]
    return sorted([(score(x), x[1]) for x in beam], reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("beam_size", [2, 3])
def test_by_hand(beam_size, penalty):
    """The same hypotheses and scores as a search with lists in Python."""
    for seed in range(20):
        weights = weights_of(seed)
        found, scores = search(weights, beam_size, penalty)
        for row, of_row, prompt in zip(found, scores, PROMPTS, strict=True):
            prompt = toy.unpadded(prompt)
            expected = search_by_hand(weights, prompt, beam_size, penalty)
            assert [toy.unpadded(x) for x in row] == [text for _, text in expected]
            values = [score for score, _ in expected]
            np.testing.assert_allclose(of_row, values, rtol=1e-4, atol=1e-4)


def misleading():
    """A model of which greedy decoding finds (3, 3, END) with p = 0.4 * 0.36 * 1, and
    pure search with K = 2 drops that for two texts with p = 0.35 * 0.5 so far, neither
    of which then goes on with more than 0.5."""
    weights = np.zeros((6, SIZE, SIZE), np.float32)
    weights[0, 2, 1:] = np.log([0.25, 0.35, 0.4])
    weights[1, 2, 1:] = np.log([1e-9, 0.5, 0.5]) - weights[0, 2, 1:]
    weights[1, 3, 1:] = np.log([0.32, 0.32, 0.36]) - weights[0, 2, 1:]
    weights[2, 3, END] = 10.0
    return weights


def test_greedy_keeps_its_place():
    """Pure beam search with K = 2 ends below greedy decoding of that model; ours finds
    what greedy decoding does."""
    prompt, weights = np.array([[2]], np.int32), misleading()
    pure, _ = search_by_hand(weights, prompt[0], 2, pure=True)[0]
    of_greedy = float(search(weights, 1, prompts=prompt)[1][0, 0])
    assert pure < np.log(0.0876) < np.log(0.14) < of_greedy
    found, scores = search(weights, 2, prompts=prompt)
    assert toy.unpadded(found[0, 0]) == (2, 3, 3, END)
    assert scores[0, 0] == pytest.approx(of_greedy, rel=1e-5)


def test_batch_mates_and_padding_change_nothing():
    """Each prompt's beam equals its beam alone, without padding."""
    weights = weights_of(7)
    together = search(weights, 3)
    for i, prompt in enumerate(PROMPTS):
        prompt = np.array([toy.unpadded(prompt)], np.int32)
        alone = search(weights, 3, prompts=prompt)
        size = alone[0].shape[2]
        np.testing.assert_array_equal(together[0][i, :, :size], alone[0][0])
        np.testing.assert_allclose(together[1][i], alone[1][0], rtol=1e-5)


def test_an_ended_hypothesis_stays():
    """If the end is certain at once, every length is scored as one token, and the best
    hypothesis is the end with log p = 0, whatever comes after it."""
    weights = np.zeros((6, SIZE, SIZE), np.float32)
    weights[0, :, END] = 40.0
    found, scores = search(weights, 2, 1.0, prompts=np.array([[2]], np.int32))
    assert toy.unpadded(found[0, 0]) == (2, END)
    np.testing.assert_allclose(scores[0, 0], 0.0, atol=1e-6)


def test_beyond_the_limit():
    """A search that needs more positions than there are is refused."""
    decoder = toy.decoder_of(weights_of(0), 1, max_length=3)
    with pytest.raises(ValueError, match="num_tokens = 3 need 5 positions.* has 3"):
        beam_search(decoder, jnp.array([[1, 2, 3]]), 3, 2)

"""Laws of the n-gram baselines."""

import collections
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.metrics.ngrams import interpolated_nats

SIZE, ORDER = 4, 5
TOKENS = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=40).map(np.array)


def by_dictionaries(train, test, order):
    """-log p of every predicted token of test: the recursion, token by token."""

    def windows(tokens):
        for i in range(1, len(tokens)):
            if tokens[i] and tokens[i - 1]:
                start = max((j for j in range(i) if not tokens[j]), default=-1) + 1
                known = tuple(tokens[start:i].tolist())
                # None: before the document, which is different from any token.
                yield (None,) * ORDER + known, int(tokens[i])

    after = collections.defaultdict(collections.Counter)
    for history, token in windows(train):
        for n in range(ORDER):
            after[history[len(history) - n :]][token] += 1

    def probability(history, token, n):
        if n == 0:
            return 1 / (SIZE - 1)
        lower = probability(history, token, n - 1)
        seen = after.get(history[len(history) - (n - 1) :])
        if not seen:
            return lower
        total, different = sum(seen.values()), len(seen)
        return (seen[token] + different * lower) / (total + different)

    return [-math.log(probability(h, token, order)) for h, token in windows(test)]


@settings(max_examples=60, deadline=None)
@given(TOKENS, TOKENS)
def test_against_dictionaries(train, test):
    """Every order agrees with the recursion in dictionaries, across documents."""
    found = interpolated_nats(train, test, SIZE, ORDER)
    expected = [by_dictionaries(train, test, n) for n in range(ORDER + 1)]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(TOKENS, st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=5))
def test_probabilities_add_up_to_one(train, history):
    """Of each order, whether or not the history occurs in the training tokens."""
    ends = [np.array([*history, token, 0]) for token in range(1, SIZE)]
    found = [interpolated_nats(train, x, SIZE, ORDER)[:, -1] for x in ends]
    np.testing.assert_allclose(np.exp(-np.stack(found)).sum(axis=0), 1, rtol=1e-12)


def test_without_training_tokens():
    """With nothing to count every order is uniform."""
    nats = interpolated_nats(np.array([], int), np.array([1, 2, 3, 1]), SIZE, ORDER)
    np.testing.assert_allclose(nats, np.full((ORDER + 1, 3), math.log(SIZE - 1)))


def test_entropy_of_a_markov_chain():
    """On 100,000 tokens of a chain of order 1, bigrams lose its entropy rate (to 1 %),
    unigrams the entropy of its stationary distribution, and longer n-grams little more
    than bigrams."""
    draws = np.random.default_rng(0)
    transitions = draws.dirichlet(np.full(8, 0.5), size=8)
    tokens = [0]
    uniform = draws.uniform(size=120_000)
    cumulative = transitions.cumsum(axis=1)
    for u in uniform:
        tokens.append(min(int(np.searchsorted(cumulative[tokens[-1]], u)), 7))
    tokens = np.array(tokens) + 1
    nats = interpolated_nats(tokens[:100_000], tokens[100_000:], 9, 3).mean(axis=1)
    values, vectors = np.linalg.eig(transitions.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()

    def entropy(p):
        return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)

    assert nats[0] == pytest.approx(math.log(8))
    assert nats[1] == pytest.approx(entropy(stationary), rel=0.01)
    assert nats[2] == pytest.approx(stationary @ entropy(transitions), rel=0.01)
    assert nats[2] < nats[3] < 1.01 * nats[2]


def test_large_vocabularies():
    """Many tokens and long n-grams do not overflow: the nats of a permutation of the
    tokens' numbers are the same; and half a million tokens take a few seconds."""
    draws = np.random.default_rng(0)
    tokens = draws.zipf(1.3, 500_000) % 50_000 + 1
    swapped = draws.permutation(50_000)[tokens - 1] + 1
    start = time.monotonic()
    found = interpolated_nats(tokens[:450_000], tokens[450_000:], 50_001, 5)
    assert time.monotonic() - start < 10
    other = interpolated_nats(swapped[:450_000], swapped[450_000:], 50_001, 5)
    np.testing.assert_allclose(found, other, rtol=1e-12)

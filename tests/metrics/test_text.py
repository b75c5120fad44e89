"""Laws of text metrics: edit distance, error rates, BLEU."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.metrics import text

texts = st.text(alphabet="abc", max_size=6)


def brute_force(a, b):
    """The definition by recursion over the last tokens."""

    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        substituted = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, substituted)

    return distance(len(a), len(b))


@given(texts, texts, texts)
def test_edit_distance_is_a_metric(a, b, c):
    """0 only for equal texts, symmetric, the triangle inequality; reversing both
    changes nothing; it is the recursive definition, between the difference of lengths
    and the longer one; a common ending does not count."""
    distance = text.edit_distance
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a) == distance(a[::-1], b[::-1])
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert distance(a, b) == brute_force(a, b)
    assert abs(len(a) - len(b)) <= distance(a, b) <= max(len(a), len(b))
    assert distance(a + c, b + c) == distance(a, b)


def test_edit_distance_of_known_words():
    """The textbook example: kitten, sitting."""
    assert text.edit_distance("kitten", "sitting") == 3


@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1))
def test_nearest_reference(rows):
    """A text is exact if it equals any reference; its errors are those to the nearest,
    whatever the order; one reference gives its own distance and length."""
    predicted, references = zip(*rows, strict=True)
    exact, errors, lengths = text.error_rates(predicted, references)
    for found, allowed, *row in zip(predicted, references, exact, errors, lengths):
        assert row[0] == (found in allowed)
        distances = [text.edit_distance(found, x) for x in allowed]
        assert row[1] == min(distances)
        nearest = [len(x) for x, d in zip(allowed, distances) if d == row[1]]
        assert row[2] == max(nearest)
    backwards = text.error_rates(predicted, [x[::-1] for x in references])
    np.testing.assert_array_equal(backwards, (exact, errors, lengths))


def test_mean_by_group():
    """The mean of each group; weighted by their sizes they give the whole mean."""
    values, groups = np.array([1, 0, 1, 1.0]), np.array([5, 3, 5, 3])
    found = text.mean_by(values, groups)
    assert list(found) == [3, 5] and found == {3: 0.5, 5: 1.0}


def test_bleu():
    """Equal texts have 100, texts without a common word 0; it is enough to match the
    nearest of several references; and it is sacrebleu's with one list each."""
    sacrebleu = pytest.importorskip("sacrebleu")
    one, two = "the cat sat on the mat", "a dog ran over the old bridge"
    assert text.bleu([one, two], [[one], [two]]) == pytest.approx(100)
    assert text.bleu([one], [["x y z u v w"]]) == pytest.approx(0)
    assert text.bleu([one, two], [[two, one], [two]]) == pytest.approx(100)
    near = "the cat sat on a mat"
    expected = sacrebleu.corpus_bleu([near, two], [[one, two]]).score
    assert text.bleu([near, two], [[one], [two]]) == pytest.approx(expected)
    assert 0 < expected < 100

"""Laws of retrieval: embeddings whose nearest ones are known."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from diffusion_jax.metrics import retrieval


@hypothesis.given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 99))
@hypothesis.settings(deadline=None)
def test_groups(size, copies, seed):
    """A group has examples of different captions; every example is in some group."""
    draws = np.random.default_rng(seed)
    captions = draws.permutation(np.repeat(np.eye(6, dtype=np.int32), copies, axis=0))
    groups = retrieval.groups_of_different(captions, size, 200)
    assert groups.shape == (200, size)
    for group in groups:
        assert len(np.unique(captions[group], axis=0)) == size
    assert set(groups.ravel()) == set(range(6 * copies))


def test_too_few_captions():
    """A group that is larger than the number of captions is refused."""
    with pytest.raises(ValueError, match="2 different captions, fewer than 3"):
        retrieval.groups_of_different(np.array([[1], [2], [1]]), 3, 1)


@hypothesis.given(st.integers(2, 20), st.integers(0, 99))
@hypothesis.settings(deadline=None)
def test_recall(size, seed):
    """Of orthogonal keys each finds itself; of k keys that change places, k are wrong;
    random keys are found as often as chance; equal keys never."""
    draws = np.random.default_rng(seed)
    keys, groups = np.eye(size), np.arange(size)[None]
    assert retrieval.recall_at_1(keys, keys, groups) == 1
    moved = draws.permutation(size)
    right = np.mean(moved == np.arange(size))
    assert retrieval.recall_at_1(keys[moved], keys, groups) == pytest.approx(right)
    assert retrieval.recall_at_1(keys, np.ones_like(keys), groups) == 0
    queries, keys = draws.normal(size=(2, 2000, 8))
    groups = np.arange(2000 // size * size).reshape(-1, size)
    error = np.sqrt(1 / size / 2000)
    found = retrieval.recall_at_1(queries, keys, groups)
    assert found == pytest.approx(1 / size, abs=5 * error)

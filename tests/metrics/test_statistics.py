"""Laws of averages over examples."""

import numpy as np
import pytest

from diffusion_jax.metrics import statistics


def test_by_hand():
    """Point 20: 1, 2, 3, 6 have the mean 3 and squared deviations of sum 14, so that
    their variance is 14/3 and that of the mean of four examples 14/12."""
    mean, error = statistics.mean_and_error(np.array([1, 2, 3, 6], np.float32))
    assert mean == 3 and error == pytest.approx(np.sqrt(14 / 12), rel=1e-12)


def test_in_float64():
    """A small spread around a large mean survives float32 values."""
    values = np.tile(np.float32([4096, 4096.5]), 20_000)
    mean, error = statistics.mean_and_error(values)
    expected = 0.25 / np.sqrt(40_000 - 1)
    assert mean == 4096.25 and error == pytest.approx(expected, rel=1e-12)


def test_one_example():
    """Point 20: one example says nothing about the spread, so it has no error."""
    assert statistics.mean_and_error(np.float32([2.5])) == (2.5, None)


def test_unbiased():
    """Point 20: the squared error of two values, averaged over all pairs of draws from
    -1 and 1, is the variance of their mean: (0 + 1 + 1 + 0) / 4 = 1 / 2."""
    pairs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], np.float32)
    squares = [statistics.mean_and_error(pair)[1] ** 2 for pair in pairs]
    assert squares == pytest.approx([0, 1, 1, 0])
    assert np.mean(squares) == pytest.approx(np.var(pairs.mean(axis=1)))

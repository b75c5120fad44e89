"""Laws of averages over examples."""

import numpy as np
import pytest

from diffusion_jax.metrics import statistics


def test_by_hand():
    """The values 1, 2, 3, 6 have the mean 3 and variance 14/4, over 4 examples."""
    mean, error = statistics.mean_and_error(np.array([1, 2, 3, 6], np.float32))
    assert mean == 3 and error == pytest.approx(np.sqrt(14 / 4 / 4), rel=1e-12)


def test_in_float64():
    """A small spread around a large mean survives float32 values."""
    values = np.tile(np.float32([4096, 4096.5]), 20_000)
    mean, error = statistics.mean_and_error(values)
    assert mean == 4096.25 and error == pytest.approx(0.25 / 200, rel=1e-12)

"""Laws of codes: active units, principal components, the mean of exponentials."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.metrics import latents


def test_active_units_by_hand():
    """A latent counts if its mean varies by more than .01: +-.11 does, +-.09 does not,
    and a constant does not however far from 0 it is."""
    signs = np.tile([[1.0], [-1.0]], (50, 1))
    means = signs * np.array([[0.11, 0.09, 0.0, 5.0]]) + np.array([[0, 0, 1e4, -3]])
    assert latents.active_units(means) == 2


def test_active_units_in_float32():
    """A small variance around a large mean is not lost to rounding."""
    means = np.tile(np.float32([[1000.0], [1000.5]]), (20_000, 1))  # variance 1/16
    assert latents.active_units(means) == 1
    assert latents.active_units(np.full((60_000, 4), 3000.3, np.float32)) == 0


def images(n, num_values, seed=0):
    """Correlated vectors that are not centred, [n, num_values]."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(num_values, num_values))
    return (random.normal(size=(n, num_values)) @ mixing + 3).astype(np.float32)


@pytest.mark.parametrize("num_components", [0, 1, 3, 6])
def test_on_the_train_set(num_components):
    """Of the set itself the error is the sum of the singular values that were left
    out, squared, over all values (Eckart and Young 1936)."""
    x = images(5000, 6)  # more than a block
    singular = np.linalg.svd(x - x.mean(axis=0, dtype=np.float64), compute_uv=False)
    expected = np.sum(singular[num_components:] ** 2) / x.size
    assert latents.pca_mse(x, x, num_components) == pytest.approx(expected, abs=1e-9)


def test_on_a_line():
    """Fitted on a line, a test point loses its distance to that line."""
    line = np.outer(np.linspace(-1, 2, 7), [3.0, 4.0]) + np.array([[1.0, 1.0]])
    test = np.array([[1.0, 1.0], [1.0 + 4, 1.0 - 3], [1.0 + 7, 1.0 + 1]])
    # 5 away, and [7, 1] = [3, 4] + [4, -3], 5 away too; two values each
    assert latents.pca_mse(line, test, 1) == pytest.approx(50 / 6)
    assert latents.pca_mse(line, test, 2) == pytest.approx(0, abs=1e-12)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_more_components_are_no_worse(num_values, n, seed):
    """On any test set the error falls with the components, to 0 with all of them, and
    without any it is the spread about the mean of train; few vectors are enough."""
    train, test = images(n, num_values, seed), images(5, num_values, seed + 1)
    found = [latents.pca_mse(train, test, k) for k in range(num_values + 1)]
    assert np.all(np.diff(found) <= 1e-9)
    mean = train.mean(axis=0, dtype=np.float64)[None]
    assert found[0] == pytest.approx(np.mean((test - mean) ** 2))
    assert found[-1] == pytest.approx(0, abs=1e-9)


def test_of_bytes():
    """Pictures of bytes are measured as numbers: nothing wraps around."""
    x = np.array([[0, 0], [255, 255], [255, 0], [0, 255]], np.uint8)
    assert latents.pca_mse(x, x, 0) == pytest.approx(127.5**2)


@pytest.mark.parametrize("num_components", [-1, 4])
def test_impossible_components(num_components):
    """More components than values, or fewer than none, are refused in words."""
    with pytest.raises(ValueError, match="0 to 3 principal components"):
        latents.pca_mse(images(5, 3), images(5, 3), num_components)

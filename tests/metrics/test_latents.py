"""Laws of active units and of the error of PCA."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.metrics import latents


def test_active_units_by_hand():
    """A latent is active if the variance of its mean is above 0.01: +-0.11 is, +-0.09
    is not, and a constant is not, however far from 0 it is."""
    signs = np.tile([[1.0], [-1.0]], (50, 1))
    means = signs * np.array([[0.11, 0.09, 0.0, 5.0]]) + np.array([[0, 0, 1e4, -3]])
    assert latents.active_units(means) == 2


def test_active_units_in_float32():
    """A small variance around a large mean survives float32 inputs."""
    means = np.tile(np.float32([[1000.0], [1000.5]]), (5000, 1))  # variance 1/16
    assert latents.active_units(means) == 1
    assert latents.active_units(np.full((30_000, 4), 3000.3, np.float32)) == 0


def test_codebook_use():
    """Perplexity K and usage 1 where all codes are alike, 1 and 1 / K for a single one;
    codes that never occur add nothing; by hand: frequencies 1/2, 1/4, 1/4."""
    assert latents.codebook_use(np.arange(12).reshape(3, 4) % 6, 6) == pytest.approx(
        (6, 1)
    )
    assert latents.codebook_use(np.full((5, 4), 3), 8) == pytest.approx((1, 1 / 8))
    found = latents.codebook_use(np.array([[1, 1], [0, 6]]), 8)
    assert found == pytest.approx((2**1.5, 3 / 8))


def draws(n, num_values, seed=0):
    """Correlated vectors [n, num_values] with a mean that is not 0."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(num_values, num_values))
    return (random.normal(size=(n, num_values)) @ mixing + 3).astype(np.float32)


@pytest.mark.parametrize("num_components", [0, 1, 3, 6])
def test_on_the_train_set(num_components):
    """On the training set the error is the sum of the squares of the discarded singular
    values, divided by the number of values (Eckart and Young 1936)."""
    x = draws(5000, 6)  # more than one block
    singular = np.linalg.svd(x - x.mean(axis=0, dtype=np.float64), compute_uv=False)
    expected = np.sum(singular[num_components:] ** 2) / x.size
    assert latents.pca_mse(x, x, num_components) == pytest.approx(expected, abs=1e-9)


def test_on_a_line():
    """Fitted to a line, the error of a test point is its distance to that line."""
    line = np.outer(np.linspace(-1, 2, 7), [3.0, 4.0]) + np.array([[1.0, 1.0]])
    test = np.array([[1.0, 1.0], [1.0 + 4, 1.0 - 3], [1.0 + 7, 1.0 + 1]])
    # Distance 5, and [7, 1] = [3, 4] + [4, -3], also 5; two values each.
    assert latents.pca_mse(line, test, 1) == pytest.approx(50 / 6)
    assert latents.pca_mse(line, test, 2) == pytest.approx(0, abs=1e-12)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_more_components_are_no_worse(num_values, n, seed):
    """On any test set the error does not increase with the number of components; it is
    0 with all of them and the variance about train's mean with none; N may be < D."""
    train, test = draws(n, num_values, seed), draws(5, num_values, seed + 1)
    errors = [latents.pca_mse(train, test, k) for k in range(num_values + 1)]
    assert np.all(np.diff(errors) <= 1e-9)
    mean = train.mean(axis=0, dtype=np.float64)[None]
    assert errors[0] == pytest.approx(np.mean((test - mean) ** 2))
    assert errors[-1] == pytest.approx(0, abs=1e-9)


def test_uint8():
    """uint8 images are handled as numbers: nothing wraps around."""
    x = np.array([[0, 0], [255, 255], [255, 0], [0, 255]], np.uint8)
    assert latents.pca_mse(x, x, 0) == pytest.approx(127.5**2)


@pytest.mark.parametrize("num_components", [-1, 4])
def test_impossible_components(num_components):
    """A negative number of components, or more than there are values, is an error."""
    with pytest.raises(ValueError, match=f"{num_components} .* 0 to 3 principal"):
        latents.pca_mse(draws(5, 3), draws(5, 3), num_components)

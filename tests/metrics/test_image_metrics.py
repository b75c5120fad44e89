"""Laws of distances between pairs of images."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from diffusion_jax.metrics.images import absolute_error, psnr


def draw(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (n, 4, 6, 3))


def test_by_hand():
    """One of four pixels is wrong by 0.2: the mean error is 0.05, the mean squared
    error 0.01, and so the PSNR 20 dB; each pair counts for itself."""
    x, y = np.zeros((2, 2, 2, 1)), np.zeros((2, 2, 2, 1))
    y[0, 1, 0] = 0.2
    y[1] = 1.0
    np.testing.assert_allclose(absolute_error(x, y), [0.05, 1])
    np.testing.assert_allclose(psnr(x, y), [20, 0], atol=1e-9)


def test_equal_images():
    """Equal images are no further apart than half an 8-bit level."""
    x = draw(3)
    np.testing.assert_array_equal(absolute_error(x, x), 0)
    half = np.full_like(x, 0.5)
    np.testing.assert_allclose(psnr(x, x), psnr(half, half + 0.5 / 255))
    assert np.all(psnr(x, x) < psnr(x, x + 0.4 / 255) + 1e-9)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.floats(0.01, 0.5), st.integers(0, 99))
def test_scale(factor, seed):
    """Errors add up linearly, and the PSNR falls by 20 dB for ten times the error; both
    are symmetric."""
    x, y = draw(2, seed), draw(2, seed + 100)
    near = x + factor * (y - x)
    np.testing.assert_allclose(absolute_error(x, near), factor * absolute_error(x, y))
    np.testing.assert_allclose(psnr(x, near), psnr(x, y) - 20 * np.log10(factor))
    np.testing.assert_allclose(psnr(y, x), psnr(x, y))
    np.testing.assert_allclose(absolute_error(y, x), absolute_error(x, y))

"""Laws of mode coverage, and of class counts."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.metrics import modes

STEPS = np.arange(-4.0, 5, 2)
GRID = np.stack(np.meshgrid(STEPS, STEPS), axis=-1).reshape(25, 2)
SIGMA = 0.05


def mixture(n, centres, seed=0):
    """Draws from the mixture of Gaussians with these centres and SIGMA."""
    random = np.random.default_rng(seed)
    chosen = random.integers(len(centres), size=n)
    return centres[chosen] + SIGMA * random.normal(size=(n, centres.shape[1]))


def test_the_mixture_itself():
    """A fraction 1 - exp(-9/2) of draws from the mixture is of high quality (Rayleigh
    distribution), within four standard errors; every mode is covered."""
    n = 10_000
    found = modes.mode_count(mixture(n, GRID), GRID, SIGMA)
    expected = 1 - math.exp(-4.5)
    error = math.sqrt(expected * (1 - expected) / n)
    assert found.share_within == pytest.approx(expected, abs=4 * error)
    assert found.covered == found.touched == 25


@pytest.mark.parametrize("kept", [1, 7, 24])
def test_lost_modes(kept):
    """A mixture of some of the modes covers those and touches no other."""
    found = modes.mode_count(mixture(3000, GRID[:kept]), GRID, SIGMA)
    assert found.covered == found.touched == kept
    assert np.count_nonzero(found.histogram[:kept]) == kept
    assert sum(found.histogram[kept:]) == 0


def test_by_hand():
    """The radius is three sigma in any direction; a quarter of the expected number
    covers a mode, less only touches it."""
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    good = [[0.0, 2.9], [2.0, 2.0], *[[10.0, 0.0]] * 8, [0.0, 12.9]]
    bad = [[0.0, 3.1], [2.2, 2.2], [10.0, 3.1], *[[5.0, 5.0]] * 10]
    found = modes.mode_count(np.array(good + bad), centres, sigma=1.0)
    assert found.histogram == [2, 8, 1]
    assert found.share_within == 11 / 24
    assert found.covered == 2  # 8 of 24 are expected, a quarter of that is 2
    assert found.touched == 3


def test_noise_is_no_mode():
    """Points spread uniformly over the square touch all modes and cover none: discs of
    radius 0.15 have less than 2 % of its area."""
    n = 12_000
    points = np.random.default_rng(0).uniform(-5, 5, (n, 2))
    found = modes.mode_count(points, GRID, SIGMA)
    assert found.covered == 0 and found.touched == 25
    area = 25 * math.pi * 0.15**2 / 100
    assert found.share_within == pytest.approx(area, abs=4 * math.sqrt(area / n))


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    st.integers(1, 6), st.integers(1, 40), st.integers(1, 3), st.integers(0, 10**6)
)
def test_any_points(k, n, dimensions, seed):
    """High-quality samples are counted once; covered modes are touched; the order of
    points is irrelevant, and the histogram follows the order of the centres."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(n, dimensions)).astype(np.float32)
    centres = random.normal(size=(k, dimensions))
    found = modes.mode_count(points, centres, 0.2)
    assert sum(found.histogram) == pytest.approx(found.share_within * n)
    assert 0 <= found.covered <= found.touched <= k
    assert modes.mode_count(points[::-1], centres, 0.2) == found
    turned = modes.mode_count(points, centres[::-1], 0.2)
    assert turned == found._replace(histogram=found.histogram[::-1])


def test_points_that_are_not_finite():
    """Infinite and NaN points of a diverged generator are of low quality."""
    points = np.array([[0.0, 0.0], [np.nan, 0.0], [np.inf, 0.0], [0.0, -np.inf]])
    assert modes.mode_count(points, GRID, SIGMA).share_within == 0.25


@pytest.mark.parametrize("shape", [(0, 2), (4, 3), (4,)])
def test_invalid_points(shape):
    """No points, or points of another dimension, are an error."""
    with pytest.raises(ValueError, match="the same D"):
        modes.mode_count(np.zeros(shape), GRID, SIGMA)


def test_histogram():
    """Counts per class, including classes without samples."""
    assert modes.histogram(np.array([3, 0, 3, 3], np.int32), 5) == [1, 0, 0, 3, 0]
    for wrong in ([0, 5], [-1, 0]):
        with pytest.raises(ValueError, match="num_classes = 5 allows classes 0 to 4"):
            modes.histogram(np.array(wrong), 5)


@pytest.mark.parametrize(
    "counts,covered",
    [
        ([10] * 10, 10),
        ([25, 24, 951, 0], 1),  # 62.5 are needed
        ([25, 24] + [119] * 7 + [118], 9),  # of 1000 samples 25 are needed
        ([0, 0, 1000], 1),
        ([0, 0, 0], 0),
    ],
)
def test_classes_covered(counts, covered):
    """A class is covered if it has at least a quarter of a uniform share."""
    assert modes.classes_covered(counts) == covered

"""Laws of counted modes."""

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
    """Draws of the mixture whose normals have these means, and SIGMA."""
    random = np.random.default_rng(seed)
    chosen = random.integers(len(centres), size=n)
    return centres[chosen] + SIGMA * random.normal(size=(n, centres.shape[1]))


def test_the_mixture_itself():
    """Of true draws 1 - exp(-9/2) are good (a Rayleigh distribution), to within four
    standard errors; every mode is covered."""
    n = 40_000
    found = modes.mode_count(mixture(n, GRID), GRID, SIGMA)
    expected = 1 - math.exp(-4.5)
    error = math.sqrt(expected * (1 - expected) / n)
    assert found.share_within == pytest.approx(expected, abs=4 * error)
    assert found.covered == found.touched == 25


@pytest.mark.parametrize("kept", [1, 7, 24])
def test_lost_modes(kept):
    """A mixture of some of the modes covers those, and touches no other."""
    found = modes.mode_count(mixture(5000, GRID[:kept]), GRID, SIGMA)
    assert found.covered == found.touched == kept
    assert np.count_nonzero(found.histogram[:kept]) == kept
    assert sum(found.histogram[kept:]) == 0


def test_by_hand():
    """Three sigma is the border, whatever the direction; a quarter of the fair share
    covers, less only touches."""
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    good = [[0.0, 2.9], [2.0, 2.0], *[[10.0, 0.0]] * 8, [0.0, 12.9]]
    bad = [[0.0, 3.1], [2.2, 2.2], [10.0, 3.1], *[[5.0, 5.0]] * 10]
    found = modes.mode_count(np.array(good + bad), centres, sigma=1.0)
    assert found.histogram == [2, 8, 1]
    assert found.share_within == 11 / 24
    assert found.covered == 2  # the fair share is 8 of 24, a quarter of it 2
    assert found.touched == 3


def test_noise_is_no_mode():
    """Points spread evenly over the square touch the modes, and cover none: discs of
    radius .15 are a hundredth of the area."""
    points = np.random.default_rng(0).uniform(-5, 5, (20_000, 2))
    found = modes.mode_count(points, GRID, SIGMA)
    assert found.covered == 0 and found.touched == 25
    area = 25 * math.pi * 0.15**2 / 100
    assert found.share_within == pytest.approx(area, abs=4 * math.sqrt(area / 20_000))


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    st.integers(1, 6), st.integers(1, 40), st.integers(1, 3), st.integers(0, 10**6)
)
def test_of_any_points(k, n, dimensions, seed):
    """Good points are counted once; covered modes are touched; the order of points is
    no matter, and that of the centres carries over to the histogram."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(n, dimensions)).astype(np.float32)
    centres = random.normal(size=(k, dimensions))
    found = modes.mode_count(points, centres, 0.2)
    assert sum(found.histogram) == pytest.approx(found.share_within * n)
    assert 0 <= found.covered <= found.touched <= k
    assert modes.mode_count(points[::-1], centres, 0.2) == found
    turned = modes.mode_count(points, centres[::-1], 0.2)
    assert turned == found._replace(histogram=found.histogram[::-1])


def test_what_is_not_finite_is_not_good():
    """A diverged generator scores 0 for its infinite points."""
    points = np.array([[0.0, 0.0], [np.nan, 0.0], [np.inf, 0.0], [0.0, -np.inf]])
    assert modes.mode_count(points, GRID, SIGMA).share_within == 0.25


@pytest.mark.parametrize("shape", [(0, 2), (4, 3), (4,)])
def test_refused(shape):
    """No points, or points of another space, are refused in words."""
    with pytest.raises(ValueError, match="need one D"):
        modes.mode_count(np.zeros(shape), GRID, SIGMA)

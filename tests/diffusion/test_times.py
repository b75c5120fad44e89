"""Knots against the papers' tables, and draws that cover every time."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import textbook

from diffusion_jax.diffusion import times

uniform_times = jax.jit(times.uniform_times, static_argnums=1)


@pytest.mark.parametrize("spacing", times.SPACINGS)
@hypothesis.given(num_timesteps=st.integers(1, 4000), data=st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_knots(spacing, num_timesteps, data):
    """n different times in 1..T, falling, for every n up to T."""
    num_steps = data.draw(st.integers(1, num_timesteps))
    knots = times.knots(spacing, num_timesteps, num_steps)
    assert knots.shape == (num_steps,) and knots.dtype == np.int32
    assert np.all(np.diff(knots) < 0)
    assert 1 <= knots.min() and knots.max() <= num_timesteps


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_timesteps", [1, 10, 1000])
def test_all_the_times(spacing, num_timesteps):
    """As many steps as times visits each of them: T, ..., 1."""
    knots = times.knots(spacing, num_timesteps, num_timesteps)
    np.testing.assert_array_equal(knots, np.arange(num_timesteps, 0, -1))


@pytest.mark.parametrize("num_timesteps", [10, 1000, 1001, 4000])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 10])
def test_ends(num_timesteps, num_steps):
    """Leading ends at 1 and trailing starts at T; quadratic runs from 0.8 T to 1."""
    assert times.knots("leading", num_timesteps, num_steps)[-1] == 1
    assert times.knots("trailing", num_timesteps, num_steps)[0] == num_timesteps
    if 1 < num_steps < num_timesteps**0.5:
        knots = times.knots("quadratic", num_timesteps, num_steps)
        assert knots[0] == int(0.8 * num_timesteps) + 1 and knots[-1] == 1


@pytest.mark.parametrize("num_timesteps", [10, 1000, 1001, 4000])
@pytest.mark.parametrize("num_steps", [1, 3, 7, 10])
def test_leading_as_elsewhere(num_timesteps, num_steps):
    """Diffusers' "leading", in its 0..T-1, is ours less one."""
    ratio = num_timesteps // num_steps
    theirs = (np.arange(0, num_steps) * ratio).round()[::-1].astype(np.int64)
    ours = times.knots("leading", num_timesteps, num_steps)
    np.testing.assert_array_equal(ours - 1, theirs)


@pytest.mark.parametrize(
    "spacing, published",
    [
        ("leading", [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
        ("trailing", [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]),
    ],
)
def test_table_of_lin(spacing, published):
    """Lin et al. 2024, table 2: T = 1000 in 10 steps."""
    np.testing.assert_array_equal(times.knots(spacing, 1000, 10), published)


@pytest.mark.parametrize("num_steps", [2, 5, 10, 17])
def test_quadratic_of_ddim(num_steps):
    """tau_i = c i^2 (Song et al. 2021, D.3), the last near 0.8 T, whole numbers below.

    In exact arithmetic: floor(0.8 T i^2 / (n - 1)^2), by integers.
    """
    i = np.arange(num_steps)[::-1]
    exact = 8 * 1000 * i**2 // (10 * (num_steps - 1) ** 2)
    np.testing.assert_array_equal(times.knots("quadratic", 1000, num_steps), exact + 1)


def test_quadratic_with_many_steps():
    """Where squares below T meet, times stay one apart, and no other is moved."""
    for num_steps in (50, 100):  # DDIM's CIFAR-10 table
        i = np.arange(num_steps)[::-1]
        squares = 8 * 1000 * i**2 // (10 * (num_steps - 1) ** 2)
        knots = times.knots("quadratic", 1000, num_steps)
        apart = squares >= i
        np.testing.assert_array_equal(knots[apart], squares[apart] + 1)
        assert np.all(np.diff(knots[~apart]) == -1) and knots[-1] == 1


def test_refusals(monkeypatch):
    """Unknown names, steps outside 1..T, and repeated times are refused in words."""
    with pytest.raises(ValueError, match="'uniform'.*leading.*trailing.*quadratic"):
        times.knots("uniform", 1000, 10)
    for num_steps in (0, -1, 1001):
        with pytest.raises(ValueError, match=r"1\.\.1000"):
            times.knots("leading", 1000, num_steps)
    monkeypatch.setitem(times.SPACINGS, "same", lambda num_timesteps, n: np.ones(n))
    with pytest.raises(ValueError, match="twice"):
        times.knots("same", 1000, 100)


@pytest.mark.parametrize("num_timesteps", [1, 10, 1000])
def test_uniform_times(num_timesteps):
    """Draws are uniform over 1..T with both ends reached (chi-square)."""
    n = 20 * 1000
    draws = np.asarray(uniform_times(textbook.keys(n), num_timesteps))
    assert draws.shape == (n,) and draws.dtype == np.int32
    assert draws.min() == 1 and draws.max() == num_timesteps
    counts = np.bincount(draws, minlength=num_timesteps + 1)[1:]
    expected = n / num_timesteps
    statistic = np.sum((counts - expected) ** 2 / expected)
    # Mean T - 1 and variance 2 (T - 1): four deviations and a little.
    freedom = num_timesteps - 1
    assert abs(statistic - freedom) <= 4 * np.sqrt(2 * freedom)


def test_each_time_has_its_own_key():
    """A draw depends on its example's key alone, not on its neighbours'."""
    keys = textbook.keys(8)
    together = uniform_times(keys, 1000)
    np.testing.assert_array_equal(uniform_times(keys[::-1], 1000), together[::-1])

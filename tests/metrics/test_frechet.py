"""Laws of the Fréchet distance and its real-vs-real baseline."""

import hypothesis
import numpy as np
import pytest
import scipy.linalg
from hypothesis import strategies as st

from diffusion_jax.metrics import frechet


def draws(n, features, seed=0):
    """Correlated Gaussian vectors, [n, features]."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(features, features)) / np.sqrt(features)
    return rng.normal(size=(n, features)) @ mixing + rng.normal(size=features)


def test_a_shift_costs_its_square():
    """Moving a set by v costs |v|^2, for any covariance."""
    x = draws(200, 5)
    shift = np.array([1.0, -2, 0, 3, 0.5])
    distance = frechet.frechet_distance(x, x + shift)
    assert distance == pytest.approx(np.sum(shift**2), rel=1e-9)


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
def test_a_scale_costs_a_fraction_of_the_variance(factor):
    """Scaling by a about the mean costs (1 - a)^2 tr C, even for a = 0."""
    x = draws(200, 5)
    mean = x.mean(axis=0)
    distance = frechet.frechet_distance(x, mean + factor * (x - mean))
    expected = (1 - factor) ** 2 * np.trace(np.cov(x, rowvar=False))
    assert distance == pytest.approx(expected, rel=1e-7)


def test_one_feature():
    """In one dimension: (m_1 - m_2)^2 + (s_1 - s_2)^2."""
    x, y = draws(50, 1), 4 * draws(70, 1, seed=1)
    mean, std = (x.mean() - y.mean()) ** 2, (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet.frechet_distance(x, y) == pytest.approx(mean + std, rel=1e-9)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.integers(1, 8), st.integers(2, 60), st.integers(0, 10**6))
def test_against_scipy(features, n, seed):
    """Equals the closed form with scipy's general matrix square root, also for singular
    covariances (fewer vectors than features); symmetric; not negative."""
    x, y = draws(n, features, seed), draws(n + 3, features, seed + 1)
    c_x, c_y = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    overlap = np.trace(scipy.linalg.sqrtm(c_x @ c_y + 1e-14 * np.eye(features)).real)
    shift = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    expected = shift + np.trace(c_x) + np.trace(c_y) - 2 * overlap
    distance = frechet.frechet_distance(x, y)
    assert distance == pytest.approx(expected, abs=1e-5)
    assert distance == pytest.approx(frechet.frechet_distance(y, x), abs=1e-6)
    assert distance >= -1e-9


def test_zero_for_itself_and_for_a_permutation():
    """A float32 set is at distance 0 from itself in any order."""
    x = draws(100, 6).astype(np.float32)
    assert frechet.frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def test_the_baseline_decreases_with_the_number_of_vectors():
    """The distance between two halves of one set decreases about as 1 / N."""
    x = np.random.default_rng(0).normal(size=(4000, 10))
    baselines = [
        np.mean([frechet.real_baseline(x[:n], seed, n) for seed in range(5)])
        for n in (100, 600, 4000)
    ]
    assert baselines[0] > 3 * baselines[1] > 9 * baselines[2] > 0


def test_the_baseline_compares_disjoint_subsets():
    """The baseline depends only on the seed and uses every vector once."""
    x = draws(101, 3)
    first, again, other = (frechet.real_baseline(x, seed, 50) for seed in (1, 1, 2))
    assert first == again != other
    two_points = np.array([[0.0], [0.0], [1.0], [1.0]])
    distances = {frechet.real_baseline(two_points, seed, 4) for seed in range(40)}
    # {0, 0} and {1, 1} are 1 apart; {0, 1} and {0, 1} are 0 apart; no others exist.
    assert {round(x, 9) for x in distances} == {0.0, 1.0}


def test_the_baseline_depends_on_the_number_of_samples():
    """A smaller first subset is farther away; more than half is limited to half."""
    x = np.random.default_rng(0).normal(size=(2000, 10))
    few, some = (
        np.mean([frechet.real_baseline(x, i, n) for i in range(5)]) for n in (50, 500)
    )
    assert few > 3 * some
    assert frechet.real_baseline(x, 0, 1000) == frechet.real_baseline(x, 0, 2000)


def with_moments(mean, cov, n=40):
    """Vectors [n, F] with the given sample mean and covariance, up to rounding."""
    x = draws(n, len(mean), seed=3)
    x = x - x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return white @ np.linalg.cholesky(np.asarray(cov, np.float64)).T + np.asarray(mean)


def test_closed_form_in_the_plane():
    """Covariances that do not commute: in two dimensions the trace of the square root
    is sqrt(tr(A B) + 2 sqrt(det A det B))."""
    a, b = np.array([[2.0, 1], [1, 3]]), np.array([[5.0, -2], [-2, 1]])
    assert not np.allclose(a @ b, b @ a)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = 1**2 + 2**2 + np.trace(a) + np.trace(b) - 2 * root
    sets = with_moments([1, 0], a), with_moments([0, 2], b)
    assert frechet.frechet_distance(*sets) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "x,y,message",
    [
        (np.zeros((1, 3)), np.zeros((9, 3)), "at least 2 vectors"),
        (np.zeros((9, 3)), np.zeros((9, 2)), "same features"),
        (np.zeros((9, 3)), np.full((9, 3), np.inf), "not finite"),
    ],
)
def test_invalid_sets(x, y, message):
    """Sets without a distance raise an error."""
    with pytest.raises(ValueError, match=message):
        frechet.frechet_distance(x, y)

"""Laws of precision, recall, density, coverage and the nearest distance."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffusion_jax.metrics import neighbours


def cluster(n, centre, seed=0):
    """Points of the plane within 1 of a centre."""
    turns = np.random.default_rng(seed).uniform(size=(2, n))
    angle = 2 * np.pi * turns[0]
    offset = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(centre) + np.sqrt(turns[1])[:, None] * offset


def by_definition(real, generated, k):
    """Both pairs of metrics from all pairwise distances, equation by equation; exact
    for integer vectors."""

    def squares(x, y):
        return np.sum((x[:, None] - y[None]) ** 2, axis=2)

    def radii(x):
        return np.sort(squares(x, x) + np.diag(np.full(len(x), np.inf)))[:, k - 1]

    across = squares(real, generated)
    in_real = across <= radii(real)[:, None]
    in_generated = across <= radii(generated)[None]
    precision, recall = in_real.any(axis=0).mean(), in_generated.any(axis=1).mean()
    density = in_real.sum() / (k * len(generated))
    return (precision, recall), (density, in_real.any(axis=1).mean())


def test_half_of_the_real_data():
    """Samples from one of two distant clusters have precision 1 and recall 1/2; with
    real and generated swapped it is 1/2 and 1."""
    near, far = cluster(40, [0, 0]), cluster(40, [100, 0], seed=1)
    both = np.concatenate([near, far])
    assert neighbours.precision_recall(both, near) == (1.0, 0.5)
    assert neighbours.precision_recall(near, both) == (0.5, 1.0)
    density, coverage = neighbours.density_coverage(both, near)
    assert coverage == 0.5 and density > 1  # each ball near them contains k + 1


def test_far_from_the_real_data():
    """Samples far from the data score 0 in all four metrics."""
    real, elsewhere = cluster(30, [0, 0]), cluster(20, [50, 0])
    assert neighbours.precision_recall(real, elsewhere) == (0.0, 0.0)
    assert neighbours.density_coverage(real, elsewhere) == (0.0, 0.0)


def test_collapse():
    """A generator collapsed onto one real vector has precision 1 and recalls only that
    vector."""
    real = cluster(50, [0, 0])
    collapsed = np.repeat(real[:1], 30, axis=0)
    assert neighbours.precision_recall(real, collapsed) == (1.0, 1 / 50)


def test_copies_of_the_real_data():
    """Copies, in any order and far from the origin, have precision, recall and coverage
    1 and density (k + 1) / k: a ball contains its centre and k neighbours."""
    real = cluster(60, [1000, -500])
    copies = real[::-1]
    for k in (1, 3, 5):
        assert neighbours.precision_recall(real, copies, k) == (1.0, 1.0)
        density, coverage = neighbours.density_coverage(real, copies, k)
        assert density == pytest.approx((k + 1) / k) and coverage == 1.0


@hypothesis.settings(deadline=None, max_examples=35)
@hypothesis.given(
    st.integers(1, 3),
    st.integers(5, 30),
    st.integers(5, 30),
    st.integers(1, 4),
    st.data(),
)
def test_by_definition(num_features, n, m, k, data):
    """All metrics equal their definitions on integer vectors, with many duplicates and
    neighbours exactly on the surface of a ball, for any block size."""
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    real = random.integers(0, 5, (n, num_features)) + 700
    generated = random.integers(0, 6, (m, num_features)) + 700
    pair, other = by_definition(real, generated, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "MAX_DISTANCES", data.draw(st.integers(1, 200)))
        assert neighbours.precision_recall(real, generated, k) == pytest.approx(pair)
        assert neighbours.density_coverage(real, generated, k) == pytest.approx(other)
        exact = np.sqrt(np.sum((generated[:, None] - real[None]) ** 2, axis=2).min(1))
        found = neighbours.nearest_distance(generated, real)
        assert found == pytest.approx(np.median(exact), abs=1e-12)


@pytest.mark.parametrize("k", [1, 4, 30])
def test_larger_sets_by_definition(k):
    """The same on sets large enough for a partial sort."""
    random = np.random.default_rng(k)
    real, generated = random.normal(size=(120, 6)), random.normal(size=(100, 6)) * 0.8
    pair, other = by_definition(real, generated, k)
    assert neighbours.precision_recall(real, generated, k) == pytest.approx(pair)
    assert neighbours.density_coverage(real, generated, k) == pytest.approx(other)


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_moved_and_scaled(seed, scale, shift):
    """Scaling and shifting both sets does not change the four metrics, and scales the
    nearest distance."""
    random = np.random.default_rng(seed)
    real, generated = random.normal(size=(40, 3)), random.normal(size=(30, 3)) * 1.3
    moved = [scale * (x + shift) for x in (real, generated)]
    for metric in (neighbours.precision_recall, neighbours.density_coverage):
        assert metric(*moved) == metric(real, generated)
    found = neighbours.nearest_distance(moved[1], moved[0])
    expected = scale * neighbours.nearest_distance(generated, real)
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("n,m,k", [(20, 20, 5), (12, 30, 3)])
def test_two_draws_of_one_distribution(n, m, k):
    """For any continuous distribution the expected density is 1 and the expected
    coverage 1 - (n-1)...(n-k) / ((n+m-1)...(n+m-k)) (Naeem et al. 2020): means over 400
    pairs of sets, within four standard errors."""
    random = np.random.default_rng(0)
    pairs = random.gamma(2.0, size=(400, n + m, 2))
    found = [neighbours.density_coverage(x[:n], x[n:], k) for x in pairs]
    missed = math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    error = np.std(found, axis=0) / math.sqrt(400)
    assert np.all(np.abs(np.mean(found, axis=0) - [1, 1 - missed]) < 4 * error)


def test_an_outlier():
    """One real outlier gives distant samples precision 1, but changes density and
    coverage little."""
    real = np.concatenate([cluster(50, [0, 0]), [[100.0, 0.0]]])
    far = cluster(50, [50, 0])
    assert neighbours.precision_recall(real, far)[0] == 1.0
    density, coverage = neighbours.density_coverage(real, far)
    assert density == pytest.approx(1 / 5) and coverage == pytest.approx(1 / 51)


def test_in_single_precision():
    """float32 vectors so far from the origin that their squared lengths exceed the
    precision of their distances give exact results."""
    offset = np.float32([[4096, 0]])
    real = np.float32([[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0.5], [3, 3]])
    generated = real[:5] / 2
    pair, other = by_definition(real, generated, 2)
    real, generated = real + offset, generated + offset
    assert neighbours.precision_recall(real, generated, 2) == pytest.approx(pair)
    assert neighbours.density_coverage(real, generated, 2) == pytest.approx(other)


def test_nearest():
    """Moved copies find their originals, at the length of their shifts."""
    rng = np.random.default_rng(0)
    train, order = 100 * rng.normal(size=(50, 4)), rng.permutation(50)[:20]
    shifts = rng.normal(size=(20, 4))
    distances, positions = neighbours.nearest(train[order] + shifts, train)
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_allclose(distances, np.linalg.norm(shifts, axis=1), rtol=1e-9)


def test_nearest_distance():
    """Copies are at distance exactly 0, however large they are; a shift away from a
    line of points has its own length; the median is over the samples."""
    train = np.array([[float(i), 7.0] for i in range(9)]) * 1e3 + 0.1
    assert neighbours.nearest_distance(train[3:6], train) == 0.0
    shifts = np.array([[0.0, 1.0], [0.0, -2.0], [0.0, 5.0]])
    assert neighbours.nearest_distance(train[:3] + shifts, train) == pytest.approx(2)


@pytest.mark.parametrize(
    "real,generated,message",
    [
        (np.zeros((9, 2)), np.zeros((9, 3)), "same features"),
        (np.zeros((9, 2, 1)), np.zeros((9, 2, 1)), "same features"),
        (np.zeros((3, 2)), np.zeros((9, 2)), "at least 4 vectors"),
        (np.zeros((9, 2)), np.zeros((3, 2)), "at least 4 vectors"),
        (np.zeros((9, 2)), np.full((9, 2), np.nan), "not finite"),
    ],
)
def test_invalid_sets(real, generated, message):
    """Sets that cannot be compared are an error."""
    with pytest.raises(ValueError, match=message):
        neighbours.precision_recall(real, generated)


def test_too_few_real_vectors():
    """Density and coverage need more than k real vectors, but only one sample."""
    with pytest.raises(ValueError, match="more than 5 real vectors, not 5"):
        neighbours.density_coverage(np.zeros((5, 2)), np.zeros((9, 2)))
    found = neighbours.density_coverage(cluster(9, [0, 0]), np.full((1, 2), 9.0))
    assert found == (0, 0)

"""Laws of the 25 normals: where they lie, how wide they are, how many each gets."""

import itertools

import numpy as np
import pytest

from diffusion_jax.data import loader, points, sources


@pytest.fixture(scope="module", params=["train", "test"])
def grid25(request):
    return sources.make("grid25", request.param, 1, 2)


def test_centres_are_the_grid():
    """The modes are the pairs of {-4, -2, 0, 2, 4}, the first coordinate slowest."""
    pairs = list(itertools.product([-4, -2, 0, 2, 4], repeat=2))
    np.testing.assert_array_equal(points.CENTRES, pairs)
    assert points.CENTRES.shape == (25, 2) and points.SIGMA**2 == pytest.approx(0.0025)


def test_points_have_the_contract(grid25):
    """An example is float32 [1, 1, 2] with one of 25 int32 labels; both splits have
    their size."""
    assert grid25.images.dtype == np.float32 and grid25.labels.dtype == np.int32
    assert grid25[0]["image"].shape == (1, 1, 2)
    assert grid25.num_classes == 25 and grid25.labels.min() == 0
    assert len(grid25) in (100_000, 10_000)
    splits = {s: sources.make("grid25", s, 1, 2) for s in ("train", "test")}
    assert {s: len(split) for s, split in splits.items()} == {
        "train": 100_000,
        "test": 10_000,
    }


def test_points_are_always_the_same_and_splits_share_none():
    """Opened twice they are equal bit for bit; no point is in both splits."""
    first, again, test = (
        sources.make("grid25", split, 1, 2) for split in ("train", "train", "test")
    )
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    rows = [set(map(tuple, s.images.reshape(-1, 2).tolist())) for s in (first, test)]
    assert not rows[0] & rows[1]


def test_labels_are_uniform_and_name_the_nearest_mode(grid25):
    """Counts are binomial(N, 1/25) to 5 sigma; the nearest centre is the label, since
    half the way to the next is 20 sigma."""
    n = len(grid25)
    counts = np.bincount(grid25.labels, minlength=25)
    assert np.abs(counts - n / 25).max() < 5 * np.sqrt(n / 25 * (1 - 1 / 25))
    away = grid25.images.reshape(-1, 1, 2) - points.CENTRES[None]
    np.testing.assert_array_equal((away**2).sum(-1).argmin(-1), grid25.labels)


def test_offsets_are_standard_normal(grid25):
    """(x - centre) / sigma has the moments 0, 1, 0, 3 of N(0, 1), no correlation
    between the directions nor from one point to the next, to 5 sigma each."""
    z = (grid25.images.reshape(-1, 2) - points.CENTRES[grid25.labels]) / points.SIGMA
    z = z.astype(np.float64)
    # Of N values of z^k: variance (E z^2k - (E z^k)^2) / N.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = np.abs((z**power).mean(0) - mean)
        assert error.max() < 5 * np.sqrt(variance / len(z)), power
    for product in (z[:, 0] * z[:, 1], z[1:, 0] * z[:-1, 0], z[1:, 0] * z[:-1, 1]):
        assert abs(product.mean()) < 5 / np.sqrt(len(product))


def test_points_reach_the_batch_in_their_units(grid25):
    """The loader neither scales nor mirrors a point, and shuffles it with its label."""
    batch = loader.Loader(grid25, 512, seed=0, flip=True).batch_at(4)
    assert batch["image"].shape == (512, 1, 1, 2)
    away = batch["image"].reshape(-1, 2) - points.CENTRES[batch["label"]]
    assert np.abs(away).max() < 7 * points.SIGMA
    passed = next(loader.Loader(grid25, 512, seed=0).epoch())
    np.testing.assert_array_equal(passed["image"], grid25.images[:512])


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(image_size=8), "grid25: images are 1x1x2 but 8x8x2 was asked for"),
        (dict(num_channels=1), "grid25: images are 1x1x2 but 1x1x1 was asked for"),
        (dict(split="all"), "grid25: no split 'all'; choose train or test"),
        (dict(source="grid25:3"), "'grid25:3' should be written grid25"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    """What the points do not have is said in words."""
    right = dict(source="grid25", split="train", image_size=1, num_channels=2)
    with pytest.raises(ValueError, match=sentence):
        sources.make(**{**right, **arguments})

"""Laws of the 25 normals: where they lie, how wide they are, how many each gets."""

import itertools

import numpy as np
import pytest

from diffusion_jax.data import base, loader, points, sources


@pytest.fixture(scope="module")
def splits():
    return {split: sources.make("grid25", split, 1, 2) for split in ("train", "test")}


@pytest.fixture(params=["train", "test"])
def grid25(splits, request):
    return splits[request.param]


def test_centres_are_the_grid():
    """The modes are the pairs of {-4, -2, 0, 2, 4}, the first coordinate slowest."""
    pairs = list(itertools.product([-4, -2, 0, 2, 4], repeat=2))
    np.testing.assert_array_equal(points.CENTRES, pairs)
    assert points.CENTRES.shape == (25, 2) and points.SIGMA**2 == pytest.approx(0.0025)


def test_points_have_the_contract(splits):
    """An example is a float32 point [2] with one of 25 int32 labels; both splits have
    their size; image_size and num_channels play no part."""
    sizes = {split: len(source) for split, source in splits.items()}
    assert sizes == {"train": 100_000, "test": 10_000}
    for source in (*splits.values(), sources.make("grid25", "test", 32, 3)):
        points, label = source.fields["points"], source.fields["label"]
        assert points == base.Field((2,), np.float32, "points")
        assert label.kind == "label" and label.size == 25
        assert source.fields.keys() == source.arrays.keys() == source[0].keys()
        assert source[0]["points"].shape == (2,)
        assert source.arrays["points"].dtype == np.float32
        assert source.arrays["label"].dtype == np.int32


def test_points_are_always_the_same_and_splits_share_none(splits):
    """Opened twice they are equal bit for bit; no point is in both splits."""
    again = sources.make("grid25", "test", 1, 2)
    for name, array in splits["test"].arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
    rows = [x.arrays["points"].view(np.int64).ravel() for x in splits.values()]
    assert not np.intersect1d(*rows).size


def test_labels_are_uniform_and_name_the_nearest_mode(grid25):
    """Counts are binomial(N, 1/25) to 5 sigma; the nearest centre is the label, since
    half the way to the next is 20 sigma."""
    n = len(grid25)
    counts = np.bincount(grid25.arrays["label"], minlength=25)
    assert np.abs(counts - n / 25).max() < 5 * np.sqrt(n / 25 * (1 - 1 / 25))
    away = grid25.arrays["points"][:, None] - points.CENTRES[None]
    np.testing.assert_array_equal((away**2).sum(-1).argmin(-1), grid25.arrays["label"])


def test_offsets_are_standard_normal(grid25):
    """(x - centre) / sigma has the moments 0, 1, 0, 3 of N(0, 1), no correlation
    between the directions nor from one point to the next, to 5 sigma each."""
    z = (
        grid25.arrays["points"] - points.CENTRES[grid25.arrays["label"]]
    ) / points.SIGMA
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
    assert batch["points"].shape == (512, 2)
    away = batch["points"] - points.CENTRES[batch["label"]]
    assert np.abs(away).max() < 7 * points.SIGMA
    first = loader.to_batch(grid25, np.arange(512))
    np.testing.assert_array_equal(first["points"], grid25.arrays["points"][:512])


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(split="all"), "Unknown split of grid25 'all'. Known: train, test."),
        (dict(source="grid25:3"), "'grid25:3' should be written grid25"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    """An unknown split or form raises an error that names the right one."""
    right = dict(source="grid25", split="train", image_size=1, num_channels=2)
    with pytest.raises(ValueError, match=sentence):
        sources.make(**{**right, **arguments})

"""Laws of pictures: every image is in its place."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffusion_jax.outputs import images


def images_of(n, size=(32, 32), channels=1):
    """Images whose pixels all hold their number, 10, 20, ..."""
    numbers = np.arange(1, n + 1, dtype=np.uint8) * 10
    return np.broadcast_to(numbers[:, None, None, None], (n, *size, channels)).copy()


@pytest.mark.parametrize("channels", [1, 3])
def test_tile_by_hand(channels):
    """Rows from left to right, then down, with gaps; what is left over is black."""
    grid = images.tile(images_of(5, channels=channels))
    assert grid.shape == (68, 102, channels) and grid.dtype == np.uint8
    for row, numbers in enumerate([[10, 20, 30], [40, 50, 0]]):
        for column, number in enumerate(numbers):
            cell = grid[34 * row : 34 * row + 34, 34 * column : 34 * column + 34]
            assert np.all(cell[:32, :32] == number)
            assert np.all(cell[32:] == images.GAP_GREY)
            assert np.all(cell[:, 32:] == images.GAP_GREY)


@pytest.mark.parametrize(
    "n,shape", [(1, (1, 1)), (4, (2, 2)), (5, (2, 3)), (10, (3, 4))]
)
def test_about_square(n, shape):
    """There are about as many rows as columns."""
    grid = images.tile(images_of(n))
    assert (grid.shape[0] / 34, grid.shape[1] / 34) == shape


@pytest.mark.parametrize("size,factor", [((8, 8), 4), ((7, 9), 4), ((33, 40), 1)])
def test_small_images_are_enlarged_whole(size, factor):
    """Each pixel becomes a square of a whole factor: nothing is interpolated."""
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    grid = images.tile(image)[: -images.GAP, : -images.GAP]
    assert grid.shape == (size[0] * factor, size[1] * factor, 3)
    for i in range(factor):
        for j in range(factor):
            np.testing.assert_array_equal(grid[i::factor, j::factor], image[0])


@pytest.mark.parametrize("channels,mode", [(1, "L"), (3, "RGB")])
def test_saved_grid(tmp_path, channels, mode):
    """The PNG holds the tile, grey or coloured, in a folder that is made for it."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, channels), np.uint8)
    path = tmp_path / "deep" / "grid.png"
    images.save_grid(path, images)
    with Image.open(path) as picture:
        assert picture.mode == mode
        found = np.asarray(picture).reshape(images.tile(images).shape)
    np.testing.assert_array_equal(found, images.tile(images))


def test_film(tmp_path):
    """The k frames in order, each the grid of its moment; the last stays longest."""
    frames = np.stack([images_of(4) + 50 * k for k in range(3)], axis=1)  # [N, k, ...]
    images.save_animation(tmp_path / "animation.gif", frames)
    with Image.open(tmp_path / "animation.gif") as animation:
        pictures = [
            (np.asarray(frame.convert("L")), frame.info["duration"])
            for frame in ImageSequence.Iterator(animation)
        ]
    assert len(pictures) == 3
    for k, (picture, _) in enumerate(pictures):
        np.testing.assert_array_equal(picture, images.tile(frames[:, k])[..., 0])
    durations = [duration for _, duration in pictures]
    assert durations[-1] > max(durations[:-1])


def test_film_of_one_frame(tmp_path):
    """One frame is an animation too."""
    images.save_animation(tmp_path / "animation.gif", images_of(2)[:, None])
    with Image.open(tmp_path / "animation.gif") as animation:
        assert animation.n_frames == 1


def test_columns_can_be_chosen():
    """Rows of a chosen length, in order."""
    grid = images.tile(images_of(6), columns=2)
    assert grid.shape == (102, 68, 1)
    assert grid[2 * 34, 34, 0] == 60 and grid[34, 0, 0] == 30


# Points in the plane.


def drawn_points(tmp_path, points, **options):
    """The picture of points, as numbers u8[side, side]."""
    path = tmp_path / "deep" / "points.png"
    images.save_points(path, np.asarray(points, np.float64), **options)
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


def test_points_by_hand(tmp_path):
    """x grows to the right and y upwards; black is the fullest pixel, white an empty
    one, a count in between is grey by its logarithm, and what is outside is left out.
    """
    points = [[0.5, 0.5]] * 7 + [[3.5, 0.5]] + [[0.5, 2.5]] * 3 + [[9, 9], [-1, 2]]
    found = drawn_points(tmp_path, points, side=4, limits=(0, 4))
    expected = np.full((4, 4), 255)
    expected[3, 0] = 0  # 7 points: log 8 = 3 log 2
    expected[3, 3] = 170  # 1 point: log 2
    expected[1, 0] = 85  # 3 points: 2 log 2
    np.testing.assert_array_equal(found, expected)


def test_points_have_square_axes(tmp_path):
    """Without limits all points are within, and a unit is as long on both axes: the
    shorter one has white on both sides."""
    found = drawn_points(tmp_path, [[0, 0], [8, 1], [8, -1]], side=8)
    dark = np.argwhere(found < 255).tolist()  # x in 0..8 and y in -4..4, downwards
    assert dark == [[2, 7], [3, 0], [4, 7]]


@pytest.mark.parametrize("points", [[[2.0, -3.0]], [[2.0, -3.0]] * 5])
def test_one_place(tmp_path, points):
    """Points that coincide are one dot in the middle."""
    found = drawn_points(tmp_path, points, side=5)
    assert found[2, 2] == 0 and np.sum(found < 255) == 1


def test_no_points_within(tmp_path):
    """Where there is nothing within the limits the picture is white."""
    assert np.all(drawn_points(tmp_path, [[5, 5]], side=6, limits=(0, 1)) == 255)

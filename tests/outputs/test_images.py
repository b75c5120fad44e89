"""Laws of image grids and animations: every image is in its place."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffusion_jax.outputs import images


def constant_images(n, size=(32, 32), channels=1):
    """Images whose pixels all have the value 10, 20, ... of their image."""
    numbers = np.arange(1, n + 1, dtype=np.uint8) * 10
    return np.broadcast_to(numbers[:, None, None, None], (n, *size, channels)).copy()


@pytest.mark.parametrize("channels", [1, 3])
def test_tile_by_hand(channels):
    """Images fill the rows from left to right, with gaps; unused cells are black."""
    grid = images.tile(constant_images(5, channels=channels))
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
    """By default the numbers of rows and columns are about equal."""
    grid = images.tile(constant_images(n))
    assert (grid.shape[0] / 34, grid.shape[1] / 34) == shape


@pytest.mark.parametrize("size,factor", [((8, 8), 4), ((7, 9), 4), ((33, 40), 1)])
def test_small_images_are_enlarged_without_interpolation(size, factor):
    """Each pixel becomes a square; the factor is a whole number."""
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    grid = images.tile(image)[: -images.GAP, : -images.GAP]
    assert grid.shape == (size[0] * factor, size[1] * factor, 3)
    for i in range(factor):
        for j in range(factor):
            np.testing.assert_array_equal(grid[i::factor, j::factor], image[0])


def test_number_of_columns():
    """The number of images per row can be chosen; their order is kept."""
    grid = images.tile(constant_images(6), columns=2)
    assert grid.shape == (102, 68, 1)
    assert grid[2 * 34, 34, 0] == 60 and grid[34, 0, 0] == 30


@pytest.mark.parametrize("channels,mode", [(1, "L"), (3, "RGB")])
def test_saved_grid(tmp_path, channels, mode):
    """The PNG contains the grid, in grey or in colour."""
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, channels), np.uint8)
    images.save_grid(tmp_path / "grid.png", x)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.mode == mode
        pixels = np.asarray(image).reshape(images.tile(x).shape)
    np.testing.assert_array_equal(pixels, images.tile(x))


def test_animation(tmp_path):
    """The k frames are in order, each the grid of its images; the last one lasts."""
    x = np.stack([constant_images(4) + 50 * k for k in range(3)], axis=1)  # [N, k, ...]
    images.save_animation(tmp_path / "animation.gif", x)
    with Image.open(tmp_path / "animation.gif") as animation:
        frames = [
            (np.asarray(frame.convert("L")), frame.info["duration"])
            for frame in ImageSequence.Iterator(animation)
        ]
    assert len(frames) == 3
    for k, (pixels, _) in enumerate(frames):
        np.testing.assert_array_equal(pixels, images.tile(x[:, k])[..., 0])
    durations = [duration for _, duration in frames]
    assert durations[-1] > max(durations[:-1])


def test_animation_of_one_frame(tmp_path):
    """A single frame is a valid animation."""
    images.save_animation(tmp_path / "animation.gif", constant_images(2)[:, None])
    with Image.open(tmp_path / "animation.gif") as animation:
        assert animation.n_frames == 1


@pytest.mark.parametrize(
    "shape", [(6, 8, 8, 3), (6, 8, 8, 1), (6, 8, 8), (2, 3, 8, 8, 1)]
)
def test_show(shape):
    """A picture is the grid of the images; rows of images stay rows."""
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    *_, height, width, channels = (*shape, 1) if len(shape) == 3 else shape
    tiles = images.tile(x.reshape(6, height, width, channels), 3)
    np.testing.assert_array_equal(np.asarray(images.show(x)), tiles.squeeze())


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((6, 8, 8, 1)),
        np.zeros((6, 8, 8, 2), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
        np.zeros((8, 8), np.uint8),
        ["a text"],
    ],
    ids=["floats", "two channels", "none", "one image", "texts"],
)
def test_show_refuses(x):
    """Anything but uint8 images is refused in one sentence, with what was given."""
    with pytest.raises(ValueError, match="show draws uint8 .* images are .*: conv"):
        images.show(x)

"""Laws of image grids and animations: every image is in its place."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffusion_jax.outputs import images

SIDE = 256  # of images that are not enlarged, if there are two in a row or a column
CELL = SIDE + images.GAP


def constant_images(n, size=(SIDE, SIDE), channels=1):
    """Images whose pixels all have the value 10, 20, ... of their image."""
    numbers = np.arange(1, n + 1, dtype=np.uint8) * 10
    return np.broadcast_to(numbers[:, None, None, None], (n, *size, channels)).copy()


@pytest.mark.parametrize("channels", [1, 3])
def test_tile_by_hand(channels):
    """Images fill the rows from left to right, with gaps; unused cells are grey."""
    grid = images.tile(constant_images(5, channels=channels))
    assert grid.shape == (2 * CELL, 3 * CELL, channels) and grid.dtype == np.uint8
    for row, numbers in enumerate([[10, 20, 30], [40, 50, images.GAP_GREY]]):
        for column, number in enumerate(numbers):
            cell = grid[CELL * row :, CELL * column :][:CELL, :CELL]
            assert np.all(cell[:SIDE, :SIDE] == number)
            assert np.all(cell[SIDE:] == images.GAP_GREY)
            assert np.all(cell[:, SIDE:] == images.GAP_GREY)


@pytest.mark.parametrize(
    "n,shape",
    [(1, (1, 1)), (4, (2, 2)), (5, (2, 3)), (8, (2, 4)), (10, (3, 4)), (40, (5, 8))],
)
def test_about_square(n, shape):
    """By default rows and columns are about equally many; if they can, all are full."""
    grid = images.tile(constant_images(n, size=(512, 512)))
    assert (grid.shape[0] / 514, grid.shape[1] / 514) == shape


@pytest.mark.parametrize(
    "size,columns,factor",
    [
        ((8, 8), 1, 64),  # 512 pixels wide
        ((8, 9), 2, 29),  # 522, and not 504
        ((8, 8), 100, 4),  # each image has 32 pixels
        ((513, 40), 1, 1),
    ],
)
def test_small_images_are_enlarged_without_interpolation(size, columns, factor):
    """Each pixel becomes a square; the factor is a whole number, so that the long side
    of the grid has 512 pixels and each image 32."""
    x = np.random.default_rng(0).integers(0, 256, (columns, *size, 3), np.uint8)
    grid = images.tile(x, columns)
    height, width = size[0] * factor, size[1] * factor
    assert grid.shape == (height + 2, columns * (width + 2), 3)
    last = grid[:height, (columns - 1) * (width + 2) :][:, :width]
    np.testing.assert_array_equal(last, x[-1].repeat(factor, 0).repeat(factor, 1))


def test_titles_of_columns():
    """Titles stand above the grid, each within its column, which is as wide as they
    are; without titles the grid is the same but for its size."""
    x = constant_images(10, size=(8, 8), channels=3)
    grid = images.tile(x, 2, ("image", "reconstruction of the image"))
    header, below = np.split(grid, [images.TITLE_HEIGHT])
    width = header.shape[1] // 2
    assert width > images.tile(x, 2).shape[1] // 2
    assert np.all(below[:: below.shape[0] // 5, ::width] == x[:, 0, 0].reshape(5, 2, 3))
    assert np.any(header[:, :width]) and np.any(header[:, width:])
    ends = header[[0, -1]], header[:, :1], header[:, width - 2 : width], header[:, -2:]
    assert not any(map(np.any, ends))
    np.testing.assert_array_equal(images.tile(x, 2, ()), images.tile(x, 2))


@pytest.mark.parametrize("titles", [(), ("a", "b")])
def test_many_short_rows_become_strips(titles):
    """Rows stay whole and in order, from the top of the left strip to the bottom of the
    right one, each below the titles, and the grid is no longer high and narrow."""
    x = constant_images(25, size=(64, 64)).repeat(2, axis=0)  # rows of two equal images
    grid = images.tile(x, 2, titles)
    cell, top = 64 + images.GAP, images.TITLE_HEIGHT * bool(titles)
    strip = 2 * cell + images.STRIP_GAP
    assert grid.shape == (top + 7 * cell, 4 * strip - images.STRIP_GAP, 1)
    header, cells = grid[:top], grid[top:]
    for row in range(28):
        column, line = divmod(row, 7)
        place = cells[line * cell :, column * strip :][:64, : 2 * cell, 0]
        number = row - max(0, column - 1) + 1  # the first strip has 7 rows, others 6
        expected = 10 * number * (line < 6 or column == 0)
        assert np.all(place[:, :64] == expected), row
        assert np.all(place[:, cell:][:, :64] == expected), row
        above = header[:, column * strip :][:, : 2 * cell]
        np.testing.assert_array_equal(above, header[:, : 2 * cell])


def test_number_of_columns():
    """The number of images per row can be chosen; their order is kept."""
    grid = images.tile(constant_images(6), columns=2)
    assert grid.shape == (3 * CELL, 2 * CELL, 1)
    assert grid[2 * CELL, CELL, 0] == 60 and grid[CELL, 0, 0] == 30


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

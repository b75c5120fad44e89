"""Laws of plots: points are where they belong, and curves are drawn."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.outputs import plots

COLUMNS = {
    "reverse_step": np.arange(1, 6),
    "time": np.arange(5, 0, -1),
    "rate": np.linspace(0, 2, 5),
    "distortion": np.linspace(80, 1, 5),
}


def test_three_panels(tmp_path):
    """The three panels of figure 5 are side by side, each with something drawn."""
    plots.save_rate_distortion(tmp_path / "plot.png", COLUMNS)
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("L"))
    assert pixels.shape[1] > 2.5 * pixels.shape[0]
    assert all(panel.min() < 50 for panel in np.array_split(pixels, 3, axis=1))


# Points of the plane.


def plotted(tmp_path, points, **options):
    """The pixels of the plot, u8[side, side]."""
    path = tmp_path / "points.png"
    plots.save_points(path, np.asarray(points, np.float64), **options)
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_points_by_hand(tmp_path):
    """x increases to the right and y upwards; the fullest pixel is black, an empty one
    white, the others grey by the logarithm of their count; points outside are ignored.
    """
    points = [[0.5, 0.5]] * 7 + [[3.5, 0.5]] + [[0.5, 2.5]] * 3 + [[9, 9], [-1, 2]]
    expected = np.full((4, 4), 255)
    expected[3, 0] = 0  # 7 points: log 8 = 3 log 2
    expected[3, 3] = 170  # 1 point: log 2
    expected[1, 0] = 85  # 3 points: 2 log 2
    pixels = plotted(tmp_path, points, side=4, limits=(0, 4))
    np.testing.assert_array_equal(pixels, expected)


def test_points_have_equal_axes(tmp_path):
    """Without limits all points are inside, and both axes have the same scale: the
    shorter one is padded with white on both sides."""
    pixels = plotted(tmp_path, [[0, 0], [8, 1], [8, -1]], side=8)
    dark = np.argwhere(pixels < 255).tolist()  # x in 0..8, and y in 4..-4 downwards
    assert dark == [[2, 7], [3, 0], [4, 7]]


@pytest.mark.parametrize("points", [[[2.0, -3.0]], [[2.0, -3.0]] * 5])
def test_coinciding_points(tmp_path, points):
    """Points that coincide are one dot in the centre."""
    pixels = plotted(tmp_path, points, side=5)
    assert pixels[2, 2] == 0 and np.sum(pixels < 255) == 1


def test_no_points_inside(tmp_path):
    """If all points are outside the limits the plot is white."""
    assert np.all(plotted(tmp_path, [[5, 5]], side=6, limits=(0, 1)) == 255)


@pytest.mark.parametrize(
    "captions, columns, rows",
    [
        (["a $5 note"] * 4 + ["b"] * 3, 4, 2),  # a row for each
        (["a"] * 12, 10, 2),  # a row of ten and the rest
        (["a", "a", "b", "c", "d"], 5, 1),  # captions of data
        (["a"], 1, 1),
        (["a"] * 120 + ["b"] * 80, 10, 10),  # fifty of each
    ],
)
def test_captioned_images(captions, columns, rows, tmp_path, monkeypatch):
    """Captions that several images share begin a row of their own; every image is
    drawn, and a caption only once for a row."""
    drawn = []
    make = plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *x: drawn.append(make(*x)) or drawn[0])
    images = np.arange(len(captions), dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (len(captions), 8, 8, 1))
    plots.save_captioned(tmp_path / "x.png", images, captions)
    axes = drawn[0].axes
    assert len(axes) == columns * rows
    found = [int(x.images[0].get_array()[0, 0]) for x in axes if x.images]
    every = list(range(len(captions)))
    assert found == (every if len(every) < 100 else [*range(50), *range(120, 170)])
    titles = [x.get_title(loc="left") for x in axes]
    if columns == 5:
        assert titles == captions
    else:
        assert [x for x in titles if x] == [
            x.replace("$", r"\$") for x in dict.fromkeys(captions)
        ]
    with Image.open(tmp_path / "x.png") as image:
        assert max(image.size) >= 512
        assert image.size[0] == round(132 * columns) or max(image.size) <= 520


def test_captioned_rows(tmp_path, monkeypatch):
    """Rows of a fixed length each have their caption, equal or not; the titles of the
    columns stand below the first one."""
    drawn = []
    make = plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *x: drawn.append(make(*x)) or drawn[0])
    images, captions = np.zeros((12, 8, 8, 3), np.uint8), ["a"] * 8 + ["b"] * 4
    plots.save_captioned(tmp_path / "x.png", images, captions, columns=4)
    titles = [x.get_title(loc="left") for x in drawn.pop().axes]
    assert titles == ["a", "", "", "", "a", "", "", "", "b", "", "", ""]
    plots.save_captioned(tmp_path / "x.png", images, captions, 4, "wxyz")
    titles = [x.get_title(loc="left") for x in drawn[0].axes]
    assert titles == ["a\nw", "x", "y", "z", "a", "", "", "", "b", "", "", ""]

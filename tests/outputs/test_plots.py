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


# Curves.


def drawn(panel, monkeypatch):
    """The axes on which a panel is drawn."""
    figures, make = [], plots._figure
    monkeypatch.setattr(
        plots, "_figure", lambda *x: figures.append(make(*x)) or figures[-1]
    )
    assert plots.svg(panel).startswith('<svg role="img" aria-label="T over x"')
    return figures[0].axes[0]


@pytest.mark.parametrize(
    "values, baseline, scale",
    [
        ([1.0, 0.05], 0.2, "log"),  # more than a factor of ten
        ([1.0, 0.2], 0.05, "log"),
        ([1.0, 0.2], 0.2, "linear"),
        ([1.0, 0.0], 0.2, "linear"),  # no logarithm
        ([1.0, -5.0], 0.2, "linear"),
    ],
)
def test_scale_and_baseline(values, baseline, scale, monkeypatch):
    """Positive values of several magnitudes have a logarithmic axis; the baseline is a
    dashed line over the whole width, named in the legend."""
    panel = plots.Panel("T", {"": ([1, 2], values)}, "x", "y", {"real": baseline})
    axes = drawn(panel, monkeypatch)
    assert axes.get_yscale() == scale and axes.get_ylabel() == "y"
    curve, dashed = axes.lines
    assert dashed.get_linestyle() == "--" and {*dashed.get_ydata()} == {baseline}
    assert [x.get_text() for x in axes.get_legend().get_texts()] == ["real"]
    assert curve.get_ydata().tolist() == values


@pytest.mark.parametrize("ticks, scale", [([5, 10, 50], "log"), ([2, 5], "linear")])
def test_ticks(ticks, scale, monkeypatch):
    """Only the values that were measured are marked, also on a logarithmic axis."""
    panel = plots.Panel("T", {"": (ticks, ticks)}, "x", "y", x_ticks=ticks)
    axis = drawn(panel, monkeypatch).xaxis
    assert axis.get_scale() == scale
    assert [x.get_text() for x in axis.get_ticklabels()] == list(map(str, ticks))
    assert not len(axis.get_minorticklocs())


def test_long_curves(monkeypatch):
    """Of a long noisy curve at most MAX_POINTS are drawn, the first and the last among
    them, below its running mean; a run without points keeps the colours of others."""
    x = np.arange(1, 5001)
    noise = np.random.default_rng(0).normal(size=5000)
    curves = {"a": ([], []), "b": (x, noise)}
    axes = drawn(plots.Panel("T", curves, "x", "y", is_noisy=True), monkeypatch)
    raw, mean = axes.lines
    assert raw.get_color() == mean.get_color() == "C1"
    for line in (raw, mean):
        steps = line.get_xdata()
        assert len(steps) <= plots.MAX_POINTS and (steps[0], steps[-1]) == (1, 5000)
    assert np.std(mean.get_ydata()) < np.std(raw.get_ydata()) / 5


@pytest.mark.parametrize("width", [1, 2, 5, 9])
def test_running_mean(width):
    """The mean of a constant is the constant, that of a line the line, away from the
    ends; at the ends the window is shorter."""
    np.testing.assert_allclose(plots.running_mean(np.full(9, 3.0), width), 3)
    line, side = np.arange(9.0), width // 2
    found = plots.running_mean(line, width)
    np.testing.assert_allclose(found[side : 9 - side], line[side : 9 - side])
    np.testing.assert_allclose(found[0], line[: side + 1].mean())


@pytest.mark.parametrize("number", [1, 2, 5])
def test_panels(number, tmp_path):
    """The PNG is created with its folder, 960 pixels wide, for one panel or many."""
    panel = plots.Panel("T", {"": ([1, 2], [1, 2])}, "x", "y")
    plots.save_curves(tmp_path / "new/plot.png", [panel] * number)
    with Image.open(tmp_path / "new/plot.png") as image:
        assert image.format == "PNG" and image.size[0] == 960
        assert image.size[1] >= 300 * -(-number // 2)


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

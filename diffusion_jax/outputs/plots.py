"""Plots of curves, 2D points, alignments and captioned images."""

import io
import itertools
import logging
import math
import pathlib
import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffusion_jax import paths
from diffusion_jax.outputs.images import MIN_LONG_SIDE

LOGGER = logging.getLogger(__name__)

RATE, DISTORTION = "Rate (bits/dim)", "Distortion (RMSE, 0..255)"
STEPS = "Reverse steps (T - t + 1)"
MAX_CAPTIONED, MAX_COLUMNS = 100, 10  # captioned images in a picture, and in a row
CAPTION_WIDTH = 16  # characters above an image
DPI = 120  # of figures
WIDTH = 8.0  # inches of a figure of curves, 960 pixels
MAX_POINTS = 1000  # that are drawn of a curve
MIN_SMOOTHED = 40  # a curve of fewer points is drawn as it is
SMOOTHING = 20  # the window of the running mean is 1 / SMOOTHING of a curve
LOG_RATIO = 10  # an axis whose largest value is so many times the lowest is logarithmic


class Panel(NamedTuple):
    """Curves with common axes.

    Attributes:
      title: above them.
      curves: (x, y) by name in the legend, N finite numbers each; a curve with the name
        "" is not in the legend. One with N = 0 only keeps the colours of the others.
      x_label: with its unit.
      y_label: with its unit.
      baselines: values of y by name, drawn as dashed lines.
      is_noisy: whether a running mean is drawn over each curve.
      x_ticks: the values of x that are marked; empty: chosen by their range.
    """

    title: str
    curves: dict[str, tuple[Sequence[float], Sequence[float]]]
    x_label: str
    y_label: str
    baselines: dict[str, float] = {}
    is_noisy: bool = False
    x_ticks: Sequence[float] = ()


def save_points(
    path: pathlib.Path,
    points: np.ndarray,
    side: int = 256,
    limits: tuple[float, float] | None = None,
) -> None:
    """Writes a density plot of points as a square PNG, white where there are none.

        darkness of a pixel = log(1 + points in it) / log(1 + points in the fullest one)

    Args:
      path: path of the PNG.
      points: [N, 2], x to the right and y upwards.
      side: side of the plot, in pixels.
      limits: lowest and highest value on both axes; points outside are ignored. None
        fits a square around all points, which must then be finite.
    """
    if limits is None:
        lowest, highest = points.min(axis=0), points.max(axis=0)
        radius = np.max(highest - lowest) / 2 or 1.0  # 1 if all points coincide
        centre = (lowest + highest) / 2
        box = np.stack([centre - radius, centre + radius], axis=1)
    else:
        box = [limits, limits]
    counts, _, _ = np.histogram2d(*points.T, bins=side, range=box)
    darkness = np.log1p(counts) / np.log1p(max(1, counts.max()))
    pixels = np.round(255 * (1 - darkness)).astype(np.uint8)
    Image.fromarray(pixels.T[::-1]).save(path)  # rows from the highest y to the lowest


def save_rate_distortion(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    """Plots distortion and rate over the reverse steps, and distortion over rate.

    Args:
      path: path of the PNG.
      columns: from `metrics.likelihood.rate_distortion`.

    Source: Ho et al. 2020, figure 5, arXiv:2006.11239.
    """
    figure = _figure(12, 3.4)
    panels = (
        (STEPS, "reverse_step", DISTORTION, "distortion"),
        (STEPS, "reverse_step", RATE, "rate"),
        (RATE, "rate", DISTORTION, "distortion"),
    )
    for axes, (x_label, x, y_label, y) in zip(
        figure.subplots(1, 3), panels, strict=True
    ):
        axes.plot(columns[x], columns[y], color="black", linewidth=1)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=DPI)
    LOGGER.info("Wrote %s.", path)


def save_alignments(
    path: pathlib.Path,
    alignment: np.ndarray,
    sources: Sequence[Sequence[str]],
    texts: Sequence[Sequence[str]],
) -> None:
    """Plots where each token of a text attends to: a column for each example.

    Args:
      path: path of the PNG.
      alignment: [N, heads, T, S], in [0, 1]; white is 1. What is longer than the tokens
        is left out.
      sources: the tokens of each source, on the horizontal axis.
      texts: the tokens of each text, on the vertical axis.

    Source: Bahdanau et al. 2015, figure 3, arXiv:1409.0473.
    """
    num, heads, *_ = alignment.shape
    width, height = (max(map(len, x)) for x in (sources, texts))
    figure = _figure(num * (0.8 + 0.2 * width), heads * (0.8 + 0.2 * height))
    columns = figure.subplots(heads, num, squeeze=False).T
    for column, weights, source, text in zip(
        columns, alignment, sources, texts, strict=True
    ):
        for axes, head in zip(column, weights, strict=True):
            axes.imshow(head[: len(text), : len(source)], cmap="gray", vmin=0, vmax=1)
            axes.set_xticks(range(len(source)), source, rotation=90, fontsize=8)
            axes.set_yticks(range(len(text)), text, fontsize=8)
            axes.tick_params(length=0, labeltop=True, labelbottom=False)
    figure.savefig(path, dpi=DPI)


def save_captioned(
    path: pathlib.Path,
    images: np.ndarray,
    captions: Sequence[str],
    columns: int | None = None,
    column_titles: Sequence[str] = (),
) -> None:
    """Writes images with their captions above them, at most MAX_CAPTIONED of them.

    If each caption has several images, one after the other, they begin a row of their
    own, of which only the first image has the caption; all captions are shown. The same
    holds for rows of a fixed length.

    Args:
      path: path of the PNG.
      images: u8[N, H, W, C], C = 1 or 3.
      captions: N texts.
      columns: of rows that belong together, each with one caption; None: rows are made
        of equal captions.
      column_titles: of these columns, if they have some; below the first row's caption.
    """
    groups, shared = _captioned_groups(captions, columns)
    num_rows = math.ceil(len(images) / columns) if columns else 0
    if len(groups) < num_rows:
        LOGGER.info("%s has the first %d of %d rows.", path, len(groups), num_rows)
    longest = max(map(len, groups)) if shared else len(groups)
    columns = columns or min(longest, MAX_COLUMNS)
    cells: list[int | None] = []
    for group in groups:
        cells += [*group, *([None] * (-len(group) % columns if shared else 0))]
    width = CAPTION_WIDTH * (columns if shared else 1)
    titles = {
        group[0]: textwrap.wrap(captions[group[0]].replace("$", r"\$"), width)
        for group in groups
    }
    for i, title in enumerate(column_titles):
        titles[i] = [*titles.get(i, []), title]
    height = 1.15 + 0.13 * max(map(len, titles.values()))  # inches
    rows = math.ceil(len(cells) / columns)
    figure = _figure(1.1 * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, cells, strict=False):
        if i is not None:
            axes.imshow(images[i].squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set_title("\n".join(titles.get(i, [])), fontsize=7, loc="left")
    longest = max(figure.get_size_inches())
    figure.savefig(path, dpi=max(DPI, math.ceil(MIN_LONG_SIDE / longest)))


def _captioned_groups(
    captions: Sequence[str], columns: int | None
) -> tuple[list[list[int]], bool]:
    """Returns which images stand together, and whether they share a caption.

    See `save_captioned`. If they do not, each group has one image.
    """
    indices = range(len(captions))
    if columns is not None:
        rows = [list(indices[i : i + columns]) for i in indices[::columns]]
        return rows[: max(1, MAX_CAPTIONED // columns)], True
    groups = [list(x) for _, x in itertools.groupby(indices, captions.__getitem__)]
    if min(map(len, groups)) == 1:
        return [[i] for i in indices[:MAX_CAPTIONED]], False
    share = max(1, MAX_CAPTIONED // len(groups))
    return [group[:share] for group in groups], True


def save_curves(path: pathlib.Path, panels: Sequence[Panel]) -> None:
    """Writes panels of curves as a PNG, two in a row if there are several.

    Args:
      path: path of the PNG; the folder is created.
      panels: at least one, each with a point.

    Raises:
      OSError: it cannot be written.
    """
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _figure(WIDTH, rows * (4.2 if columns == 1 else 3.2))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel)
    with paths.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
    LOGGER.info("Wrote %s.", path)


def svg(panel: Panel) -> str:
    """Returns a panel with a point as SVG, whose text is sharp at any width."""
    figure = _figure(4.5, 3.0)
    _draw(figure.subplots(), panel)
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    text = text[text.index("<svg") :]  # without the XML declaration
    label = escape(f"{panel.title} over {panel.x_label}")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _draw(axes: Any, panel: Panel) -> None:
    """Draws a panel on axes of matplotlib."""
    for i, (name, (x, y)) in enumerate(panel.curves.items()):
        if not len(x):
            continue
        label, color = name or "_", f"C{i}"  # "_": not in the legend
        x, y = np.asarray(x), np.asarray(y)
        # A curve of all points would be slow, and large as SVG.
        shown = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
        if panel.is_noisy and len(y) >= MIN_SMOOTHED:
            axes.plot(x[shown], y[shown], color=color, linewidth=0.7, alpha=0.3)
            y = running_mean(y, len(y) // SMOOTHING)
        marker = "." if len(x) < 20 else None
        axes.plot(x[shown], y[shown], color=color, label=label, marker=marker)
    for i, (name, value) in enumerate(panel.baselines.items(), len(panel.curves)):
        axes.axhline(value, color=f"C{i}", linestyle="--", linewidth=1, label=name)
    if panel.x_ticks:
        if 0 < LOG_RATIO * min(panel.x_ticks) <= max(panel.x_ticks):
            axes.set_xscale("log")
        axes.set_xticks(panel.x_ticks, [f"{x:g}" for x in panel.x_ticks])
        axes.minorticks_off()
    values = [value for _, y in panel.curves.values() for value in y]
    values += panel.baselines.values()
    if 0 < LOG_RATIO * min(values) < max(values):
        axes.set_yscale("log", subs=(2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        few = max(values) < LOG_RATIO**2 * min(values)
        axes.yaxis.set_minor_formatter("{x:g}" if few else "")
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label, fontsize=9)
    axes.set_ylabel(panel.y_label, fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.3)
    if panel.baselines or any(panel.curves):
        axes.legend(fontsize=8)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the mean over a window around each value, shorter at both ends.

    Args:
      values: [N].
      width: of the window, 1..N; an even one is made odd.
    """
    window = np.ones(width | 1)
    total, count = (
        np.convolve(x, window, "same") for x in (values, np.ones(len(values)))
    )
    return total / count


def _figure(width: float, height: float) -> Any:
    """Returns a figure of a size in inches."""
    from matplotlib.figure import Figure  # takes a second to import

    return Figure(figsize=(width, height), layout="constrained")

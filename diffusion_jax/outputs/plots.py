"""Plots of 2D points, rate-distortion curves, alignments and captioned images."""

import io
import itertools
import logging
import math
import pathlib
import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.outputs.images import MIN_LONG_SIDE

LOGGER = logging.getLogger(__name__)

RATE, DISTORTION = "Rate (bits/dim)", "Distortion (RMSE, 0..255)"
STEPS = "Reverse steps (T - t + 1)"
MAX_CAPTIONED, MAX_COLUMNS = 100, 10  # captioned images in a picture, and in a row
CAPTION_WIDTH = 18  # characters above an image
DPI = 120  # of figures


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

    Without matplotlib a warning is logged and nothing is written.

    Args:
      path: path of the PNG.
      columns: from `metrics.likelihood.rate_distortion`.

    Source: Ho et al. 2020, figure 5, arXiv:2006.11239.
    """
    figure = _figure(path, 12, 3.4)
    if figure is None:
        return
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

    Without matplotlib a warning is logged and nothing is written.

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
    figure = _figure(path, num * (0.8 + 0.2 * width), heads * (0.8 + 0.2 * height))
    if figure is None:
        return
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
) -> bool:
    """Writes images with their captions above them, at most MAX_CAPTIONED of them.

    If each caption has several images, one after the other, they begin a row of their
    own, of which only the first image has the caption; all captions are shown. The same
    holds for rows of a fixed length.

    Without matplotlib a warning is logged and nothing is written.

    Args:
      path: path of the PNG.
      images: u8[N, H, W, C], C = 1 or 3.
      captions: N texts.
      columns: of rows that belong together, each with one caption; None: rows are made
        of equal captions.
      column_titles: of these columns, if they have some; below the first row's caption.

    Returns:
      Whether the PNG was written.
    """
    key = captions.__getitem__ if columns is None else lambda i: i // columns
    groups = [list(x) for _, x in itertools.groupby(range(len(images)), key)]
    shared = columns is not None or min(map(len, groups)) > 1
    if columns is not None:
        num_rows = len(groups)
        groups = groups[: max(1, MAX_CAPTIONED // columns)]
        if len(groups) < num_rows:
            LOGGER.info("%s has the first %d of %d rows.", path, len(groups), num_rows)
    elif shared:
        share = max(1, MAX_CAPTIONED // len(groups))
        groups = [group[:share] for group in groups]
    else:
        groups = [[i] for i in range(min(len(images), MAX_CAPTIONED))]
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
    figure = _figure(path, 1.1 * columns, height * rows)
    if figure is None:
        return False
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, cells, strict=False):
        if i is not None:
            axes.imshow(images[i].squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set_title("\n".join(titles.get(i, [])), fontsize=7, loc="left")
    longest = max(figure.get_size_inches())
    figure.savefig(path, dpi=max(DPI, math.ceil(MIN_LONG_SIDE / longest)))
    return True


def curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    """Returns a small plot of a curve over the steps, as SVG; empty without matplotlib.

    Args:
      name: its title.
      points: (step, value), at least one.
    """
    figure = _figure(pathlib.Path(f"The plot of {name}"), 4.5, 2.6)
    if figure is None:
        return ""
    axes = figure.subplots()
    marker = "." if len(points) < 20 else None
    axes.plot(*zip(*points, strict=True), linewidth=1, marker=marker)
    axes.set_title(name, fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    svg = text[text.index("<svg") :]  # without the XML declaration
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)


def _figure(path: pathlib.Path, width: float, height: float) -> Any:
    """Returns a figure of a size in inches; None, and a warning, without matplotlib."""
    try:
        from matplotlib.figure import Figure  # takes a second to import
    except ModuleNotFoundError:
        LOGGER.warning(
            "%s was not written: matplotlib is missing. Run: pip install matplotlib",
            path,
        )
        return None
    return Figure(figsize=(width, height), layout="constrained")

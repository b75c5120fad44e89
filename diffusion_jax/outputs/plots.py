"""Plots of 2D points and of rate-distortion curves."""

import logging
import pathlib

import numpy as np
from PIL import Image

LOGGER = logging.getLogger(__name__)

RATE, DISTORTION = "Rate (bits/dim)", "Distortion (RMSE, 0..255)"
STEPS = "Reverse steps (T - t + 1)"


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
    try:
        from matplotlib.figure import Figure  # takes a second to import
    except ModuleNotFoundError:
        LOGGER.warning(
            "%s was not written: matplotlib is missing. Run: pip install matplotlib",
            path,
        )
        return
    figure = Figure(figsize=(12, 3.4), layout="constrained")
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
    figure.savefig(path, dpi=120)
    LOGGER.info("Wrote %s.", path)

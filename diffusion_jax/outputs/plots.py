"""Plots of measures."""

import logging
import pathlib

import numpy as np

LOGGER = logging.getLogger(__name__)

RATE, DISTORTION = "Rate (bits/dim)", "Distortion (RMSE, 0..255)"
STEPS = "Reverse steps (T - t + 1)"


def save_rate_distortion(path: pathlib.Path, columns: dict[str, np.ndarray]) -> bool:
    """Draws distortion and rate over the reverse steps, and against each other.

    Args:
      path: of the picture.
      columns: from likelihood.rate_distortion.

    Returns:
      Whether it was drawn: without matplotlib it says so, and goes on.

    Source: Ho et al. 2020, figure 5, arXiv:2006.11239.
    """
    try:
        from matplotlib.figure import Figure  # seconds, and needed here alone
    except ModuleNotFoundError:
        LOGGER.warning(
            "%s is not drawn, for want of matplotlib: pip install 'matplotlib'.", path
        )
        return False
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
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return True

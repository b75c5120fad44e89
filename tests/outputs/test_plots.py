"""Plots: they are written, or it is said what is missing."""

import logging
import sys

import numpy as np
from PIL import Image

from diffusion_jax.outputs import plots

COLUMNS = {
    "reverse_step": np.arange(1, 6),
    "time": np.arange(5, 0, -1),
    "rate": np.linspace(0, 2, 5),
    "distortion": np.linspace(80, 1, 5),
}


def test_three_panels(tmp_path):
    """Figure 5's three panels side by side, each with something drawn in it."""
    path = tmp_path / "plot.png"
    assert plots.save_rate_distortion(path, COLUMNS)
    picture = np.asarray(Image.open(path).convert("L"))
    assert picture.shape[1] > 2.5 * picture.shape[0]
    assert all(panel.min() < 50 for panel in np.array_split(picture, 3, axis=1))


def test_without_matplotlib(tmp_path, monkeypatch, caplog):
    """Without matplotlib there is no plot, one sentence, and no error."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level(logging.WARNING):
        assert not plots.save_rate_distortion(tmp_path / "plot.png", COLUMNS)
    assert "matplotlib" in caplog.text and not (tmp_path / "plot.png").exists()

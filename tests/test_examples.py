"""The examples run, stay on one page, and learn what they say they learn."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOY = ROOT / "examples/toy_2d.py"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def energy_distance(x, y):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|: 0 if and only if the laws are the same.

    Source: Szekely and Rizzo 2013, "Energy statistics", equation 5.
    """

    def mean_distance(a, b):
        return np.mean(np.linalg.norm(a[:, None] - b[None], axis=-1))

    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def test_toy_fits_on_a_page():
    """A newcomer reads it from top to bottom: 120 lines at most."""
    assert len(TOY.read_text().splitlines()) <= 120


def test_toy_writes_its_figure(tmp_path):
    """The command makes the folder and leaves one picture there, 1200 wide."""
    path = tmp_path / "new folder/toy.png"
    subprocess.run(
        [sys.executable, TOY, "--steps", "2", "--output", path],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == (1200, 390)


def test_toy_learns_the_data():
    """Learning: samples come far nearer to the data than the noise they start from.

    Two draws from the data are the floor: their distance is not 0, for they are few.
    """
    toy = load(TOY)
    x_0, again = (np.asarray(toy.data(jax.random.key(i), 1000)) for i in (10, 11))
    chain = np.asarray(toy.sample(toy.train(300)))
    assert chain.shape == (toy.FRAMES + 1, toy.POINTS, 2)
    noise, samples = (energy_distance(x, x_0) for x in (chain[0], chain[-1]))
    assert energy_distance(again, x_0) < samples < noise / 3

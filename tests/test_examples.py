"""The examples run, fit on a page, and show what they claim."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOY = ROOT / "examples/toy_2d.py"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def energy_distance(x, y):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|: 0 if and only if the distributions are equal.

    Source: Szekely and Rizzo 2013, "Energy statistics", equation 5.
    """

    def mean_distance(a, b):
        return np.mean(np.linalg.norm(a[:, None] - b[None], axis=-1))

    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def test_toy_fits_on_a_page():
    """It can be read from top to bottom: at most 120 lines."""
    assert len(TOY.read_text().splitlines()) <= 120


def test_toy_writes_its_figure(tmp_path):
    """The command creates the folder and writes one image there, 1200 wide."""
    path = tmp_path / "new folder/toy.png"
    subprocess.run(
        [sys.executable, TOY, "--steps", "2", "--output", path],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.size == (1200, 390)


def test_toy_learns_the_data():
    """Samples are much closer to the data than the noise they start from.

    The baseline is the distance between two samples of the data, not 0 for few points.
    """
    toy = load(TOY)
    x_0, again = (np.asarray(toy.data(jax.random.key(i), 1000)) for i in (10, 11))
    chain = np.asarray(toy.sample(toy.train(300)))
    assert chain.shape == (toy.FRAMES + 1, toy.POINTS, 2)
    noise, samples = (energy_distance(x, x_0) for x in (chain[0], chain[-1]))
    assert energy_distance(again, x_0) < samples < noise / 3


def test_every_example_is_tested():
    """The tests here cover all examples."""
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    tested = "toy_2d langevin sampler_errors accuracy_by_length samples_over_training "
    tested += "blind_test"
    assert names == set(tested.split())


def test_blind_test(tmp_path, capsys):
    """Right answers get full marks on both kinds, others lose them where they are; the
    sheet shows every picture once."""
    example = load(ROOT / "examples/blind_test.py")
    data = dict(source="captions:digits", image_size=8, image_width=0, num_channels=1)
    data |= dict(data_dir=None, background="white", held_out=0.1, on_error="raise")
    (tmp_path / "config.json").write_text(json.dumps({"data": data}))
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 1))
    np.savez(tmp_path / "sample.npz", image=images.astype(np.uint8))
    captions = [f"caption {i}" for i in range(12)]
    (tmp_path / "sample.txt").write_text("\n".join(captions))
    drawn, of_drawn = example.drawn_pictures(tmp_path, 6, 1)
    assert [f"caption {x}" for x in drawn[:, 0, 0, 0]] == of_drawn
    real, of_real = example.real_pictures(tmp_path, "test", 6, 1)
    order, choices, right = example.questions([*of_drawn, *of_real], 1)
    assert sorted(order) == list(range(12))
    for i, options, answer in zip(order, choices, right, strict=True):
        assert len(set(options)) == 10 and options[answer] == [*of_drawn, *of_real][i]
    example.main(tmp_path, "test", 6, 1, "")
    Image.open(tmp_path / "blind_test.png").verify()
    wrong = [(x + 1) % 10 if i >= 6 else x for i, x in zip(order, right, strict=True)]
    capsys.readouterr()
    for answers, marks in ((right, 6), (wrong, 0)):
        example.main(tmp_path, "test", 6, 1, " ".join(map(str, answers)))
        expected = f"drawn: 6 of 6 right\nreal: {marks} of 6 right\n"
        assert capsys.readouterr().out == expected


def test_langevin_needs_annealing(tmp_path, capsys):
    """Plain Langevin puts about half of the points in the lighter mode, of weight 0.2,
    the fraction that starts near it; annealed Langevin finds its weight within 0.03."""
    langevin = load(ROOT / "examples/langevin.py")
    langevin.main(tmp_path / "new/figure.png")
    shares = {}
    for line in capsys.readouterr().out.splitlines():
        name, _, rest = line.partition(": ")
        shares[name] = float(rest.split()[0])
    assert abs(shares["data"] - 0.2) < 4 * np.sqrt(0.16 / langevin.POINTS)
    assert 0.4 < shares["plain Langevin"] < 0.6
    assert abs(shares["annealed Langevin"] - 0.2) < 0.03
    with Image.open(tmp_path / "new/figure.png") as image:
        assert image.size == (1080, 387)


def test_table_of_errors(tmp_path, monkeypatch):
    """A row for each sampler; with enough calls, higher orders are more accurate."""
    example = load(ROOT / "examples/sampler_errors.py")
    monkeypatch.setattr(example, "POINTS", 512)
    example.main(tmp_path / "new/errors", (25,))
    lines = (tmp_path / "new/errors.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    errors = {name: float(error) for name, _, _, error in rows}
    assert set(errors) == set(example.SAMPLERS)
    assert (tmp_path / "new/errors.png").exists()
    assert errors["dpmpp_2m"] < errors["ddim"] < 0.1
    assert errors["ddim, eta 1"] == errors["ancestral, fixedsmall"]


def test_accuracy_by_length(tmp_path):
    """It draws a line for each run, from the last evaluation."""
    for name in ("a", "b"):
        record = {"config": name, "exact_match_by_length": {"10": 0.5, "9": 1.0}}
        (tmp_path / name).mkdir()
        lines = f"{{}}\n{json.dumps(record)}\n"
        (tmp_path / name / "evaluations.jsonl").write_text(lines)
    example = load(ROOT / "examples/accuracy_by_length.py")
    example.main([tmp_path / "a", tmp_path / "b"], tmp_path / "new/figure.png")
    with Image.open(tmp_path / "new/figure.png") as image:
        assert image.size == (720, 408)


def test_samples_over_training(tmp_path):
    """It draws the steps that were asked for; what a formula would be is text."""
    (tmp_path / "samples").mkdir()
    for step in (100, 200, 300):
        text = f"${step}$\n\n{'word ' * 40}\n{'-' * 72}\nanother"
        (tmp_path / f"samples/{step:08}.txt").write_text(text)
    example = load(ROOT / "examples/samples_over_training.py")
    output = tmp_path / "new/page.png"
    example.main(tmp_path, [100, 300], output)
    two = Image.open(output).size
    example.main(tmp_path, [], output)
    assert Image.open(output).size == (two[0], two[1] * 3 // 2)
    with pytest.raises(SystemExit, match="it has: 100, 200, 300"):
        example.main(tmp_path, [400], output)

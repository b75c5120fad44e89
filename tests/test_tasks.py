"""The commands' views and measures of likelihood: what they write, and where."""

import dataclasses
import importlib.util
import json
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import methods, runs
from diffusion_jax.evaluate import evaluate
from diffusion_jax.methods.ddpm.tasks import VIEWS
from diffusion_jax.sample import sample
from diffusion_jax.train import train

CONFIG = pathlib.Path(__file__).resolve().parents[1] / "configs/digits.py"


class Shrink:
    """A network without parameters, which compiles at once."""

    def apply(self, variables, x, t):
        return 0.3 * x


def config_of(**changes):
    """The digits' smoke run; two images of each view."""
    spec = importlib.util.spec_from_file_location("digits", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("tiny")
    config.model.channel_multipliers = (1,)
    config.train.update(num_steps=2, sample_every=0)
    config.sample.update(num_images=2, batch_size=2)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def shrunk(monkeypatch):
    """Runs are loaded with a network that needs no training."""

    def load(config, workdir, checkpoint):
        method = dataclasses.replace(methods.make(config), network=Shrink())
        state = types.SimpleNamespace(step=2, ema={"net": {}}, model_state={})
        return method, state

    monkeypatch.setattr(runs, "load", load)


def last_line(workdir):
    return json.loads((workdir / "evaluations.jsonl").read_text().splitlines()[-1])


def check_view(workdir, view):
    with np.load(workdir / f"{view}.npz", allow_pickle=False) as arrays:
        rows = arrays["images"]
    assert rows.dtype == np.uint8 and rows.shape[:1] + rows.shape[2:] == (2, 8, 8, 1)
    size = Image.open(workdir / f"{view}.png").size
    assert size == (34 * rows.shape[1], 34 * 2)


@pytest.mark.usefixtures("shrunk")
@pytest.mark.parametrize("view", ["reconstruction", "interpolation"])
def test_view(view, tmp_path):
    """A view writes its rows as arrays and as a grid with a row an example; rows do not
    depend on the batch size, nor on how many there are but for their partners."""
    sample(config_of(**{"sample.view": view}), tmp_path)
    check_view(tmp_path, view)
    assert not (tmp_path / "samples.npz").exists()
    rows = np.load(tmp_path / f"{view}.npz")["images"]
    sample(config_of(**{"sample.view": view, "sample.batch_size": 1}), tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / f"{view}.npz")["images"], rows)


@pytest.mark.usefixtures("shrunk")
def test_rate_distortion(tmp_path):
    """The curve is written as a table and as a plot; its end is the bound's rate."""
    changes = {"eval.num_terms": 19, "eval.metric": "rate_distortion"}
    evaluate(config_of(**changes), tmp_path)
    record = last_line(tmp_path)
    table = np.loadtxt(tmp_path / "rate_distortion.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 0], np.arange(1, 21))
    assert table[-1, 2] == record["rate"] and table[-1, 3] == record["distortion"]
    assert record["num_rows"] == 20 and record["measure"] == "rate_distortion"
    Image.open(tmp_path / "rate_distortion.png").verify()
    evaluate(config_of(**changes | {"eval.metric": "bound"}), tmp_path)
    bound = last_line(tmp_path)
    parts = bound["prior"] + bound["transitions"]
    assert record["rate"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.usefixtures("shrunk")
def test_ode_likelihood(tmp_path):
    """Bits/dim by the ODE, with all that the number hangs on."""
    evaluate(config_of(**{"eval.metric": "ode_likelihood"}), tmp_path)
    record = last_line(tmp_path)
    assert np.isfinite(record["bits_per_dim"]) and record["num_examples"] == 359
    expected = {"num_probes": 1, "num_steps": 5, "dequantization": "uniform"}
    assert expected.items() <= record.items()


@pytest.mark.slow
def test_trained_run(tmp_path):
    """All views and measures of a run of two steps."""
    train(config_of(), tmp_path)
    for view in VIEWS:
        config = runs.read_config(tmp_path, config_of(), {"sample.view": view})
        sample(config, tmp_path)
        check_view(tmp_path, view)
    for measure in ("rate_distortion", "ode_likelihood"):
        config = runs.read_config(tmp_path, config_of(), {"eval.metric": measure})
        evaluate(config, tmp_path)
        assert last_line(tmp_path)["measure"] == measure

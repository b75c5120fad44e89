"""Diffusion models by the commands: the outputs of tasks, and likelihoods."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from smoke import last_line, load

from diffusion_jax import methods, run_config, runs
from diffusion_jax.evaluate import evaluate
from diffusion_jax.methods.ddpm.tasks import TASKS
from diffusion_jax.sample import sample
from diffusion_jax.training.state import Variables
from diffusion_jax.training_loop import train


class Shrink:
    """A network with one parameter, which compiles at once."""

    def apply(self, variables, x, t, cond):
        return variables["params"] * x


def config_of(**changes):
    """The digits' smoke run; two examples of each task."""
    config = load("digits", model__channel_multipliers=(1,), train__num_steps=2)
    config.train.sample_every = 0
    config.sample.update(num_examples=2, batch_size=2)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def shrunk(monkeypatch):
    """Runs are loaded with a network that needs no training."""

    make_whole = methods.make

    def make(config, fields):
        return dataclasses.replace(make_whole(config, fields), network=Shrink())

    def load(config, workdir, checkpoint):
        method = methods.make(config, run_config.stored_fields(config, workdir))
        return runs.Run(method, Variables({"net": np.float32(0.3)}, {}), 2)

    monkeypatch.setattr(methods, "make", make)
    monkeypatch.setattr(runs, "load", load)


def check_task(workdir, task):
    with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
        rows = arrays["rows"]
    assert rows.dtype == np.uint8 and rows.shape[:1] + rows.shape[2:] == (2, 8, 8, 1)
    assert max(Image.open(workdir / f"{task}.png").size) >= 512


@pytest.mark.usefixtures("shrunk")
@pytest.mark.parametrize("task", ["reconstruct", "interpolate"])
def test_task(task, tmp_path):
    """A task writes its rows as arrays and as a grid with one row per example, which do
    not depend on the batch size, and on the number of rows only by their partners."""
    sample(config_of(**{"sample.task": task}), tmp_path)
    check_task(tmp_path, task)
    assert not (tmp_path / "sample.npz").exists()
    rows = np.load(tmp_path / f"{task}.npz")["rows"]
    sample(config_of(**{"sample.task": task, "sample.batch_size": 1}), tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / f"{task}.npz")["rows"], rows)


@pytest.mark.usefixtures("shrunk")
def test_rate_distortion(tmp_path):
    """The curve is written as a table and as a plot; its end is the rate of the VLB."""
    changes = {"eval.num_terms": 19, "eval.metric": "rate_distortion"}
    evaluate(config_of(**changes), tmp_path)
    record = last_line(tmp_path)
    table = np.loadtxt(tmp_path / "rate_distortion.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 0], np.arange(1, 21))
    assert table[-1, 2] == record["rate"] and table[-1, 3] == record["distortion"]
    assert record["num_rows"] == 20 and record["metric"] == "rate_distortion"
    Image.open(tmp_path / "rate_distortion.png").verify()
    evaluate(config_of(**changes | {"eval.metric": "vlb"}), tmp_path)
    vlb = last_line(tmp_path)
    assert record["rate"] == pytest.approx(vlb["prior"] + vlb["transitions"], rel=1e-5)


@pytest.mark.usefixtures("shrunk")
def test_ode_likelihood(tmp_path):
    """Bits/dim by the ODE, with all settings that the number depends on."""
    evaluate(config_of(**{"eval.metric": "ode_likelihood"}), tmp_path)
    record = last_line(tmp_path)
    assert np.isfinite(record["bits_per_dim"]) and record["num_examples"] == 359
    expected = {"num_probes": 1, "num_steps": 5, "dequantization": "uniform"}
    assert expected.items() <= record.items()


@pytest.mark.slow
def test_trained_run(tmp_path):
    """All tasks with rows and all metrics of a run of two steps."""
    train(config_of(), tmp_path)
    for task in TASKS.keys() - {"sample", "translate", "vlb", "log_likelihood"}:
        config = run_config.read_config(tmp_path, config_of(), {"sample.task": task})
        sample(config, tmp_path)
        check_task(tmp_path, task)
    for metric in ("rate_distortion", "ode_likelihood"):
        config = run_config.read_config(tmp_path, config_of(), {"eval.metric": metric})
        evaluate(config, tmp_path)
        assert last_line(tmp_path)["metric"] == metric

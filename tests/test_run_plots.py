"""Plots of what a run has logged: which curves there are, and which files."""

import json
import math
import re
import shlex

import numpy as np
import pytest
from handmade import make_run
from pages import Page
from PIL import Image

from diffusion_jax import run_config, run_plots
from diffusion_jax.outputs import images
from diffusion_jax.report import report

LOG = [
    *[{"step": i, "disc/loss": 1 / i, "gen/loss": 2.0, "grad": 1.0} for i in (1, 2, 3)],
    {"step": 2, "test_FD of pixels": 0.5, "test_FD of pixels, real": 0.08},
    {"step": 3, "test_FD of pixels": 0.4, "test_FD of pixels, real": 0.07},
    {"step": 3, "test_seconds": 3.0, "test_precision": None},
]


def test_losses_and_metrics():
    """There is a panel for the loss of each phase, with a curve for each run that has
    it, and one for each metric, with the last value of its baseline."""
    disc, gen = run_plots.losses({"a": LOG, "b": LOG[1:], "c": []})
    assert (disc.title, gen.title) == ("Loss of disc", "Loss of gen")
    assert disc.curves["a"] == ([1, 2, 3], [1, 1 / 2, 1 / 3])
    assert gen.curves["b"] == ([2, 3], [2.0, 2.0]) and gen.curves["c"] == ([], [])
    (metric,) = run_plots.metrics(LOG, "test")
    assert metric.curves == {"": ([2, 3], [0.5, 0.4])}
    assert metric.baselines == {"real": 0.07}
    assert metric.y_label == "FD of pixels (lower is better)"
    assert not run_plots.metrics(LOG, "val")


@pytest.mark.parametrize(
    "lines, names",
    [(LOG, ["loss.png", "metrics.png"]), (LOG[:3], ["loss.png"]), (LOG[:1], [])],
)
def test_files(lines, names, tmp_path):
    """There are PNGs that can be read, of curves that have two points."""
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "metrics.jsonl").write_text(text)
    run_plots.save(tmp_path, "test")
    assert sorted(x.name for x in tmp_path.glob("plots/*")) == names
    for name in names:
        with Image.open(tmp_path / "plots" / name) as image:
            assert image.format == "PNG" and min(image.size) >= 300
            assert image.size[0] >= 800


def line(distance, **settings):
    """A line of evaluations.jsonl."""
    return {"FD of pixels": distance, "FD of pixels, real": 0.07, **settings}


def test_sweep():
    """There is a curve for each sampler over the number of steps, from few to many; of
    one number of steps, over another number; of samplers alone there is none."""
    keys = "seed", "sampler", "num_steps", "guidance_scale"
    records = [
        line(1 / n, sampler=sampler, num_steps=n, guidance_scale=1.0, seed=0)
        for sampler in ("ddim", "dpmpp_2m")
        for n in (50, 5, 10)
    ]
    (panel,) = run_plots.sweep(records, keys)
    curve = [5, 10, 50], [1 / 5, 1 / 10, 1 / 50]
    assert panel.curves == {"ddim": curve, "dpmpp_2m": curve}
    assert panel.baselines == {"real": 0.07} and panel.x_label == "sampling steps"
    assert panel.x_ticks == [5, 10, 50]
    records = [line(1.0, sampler="ddim", guidance_scale=x, seed=3) for x in (2.0, 1.0)]
    (panel,) = run_plots.sweep(records, keys)
    assert panel.curves == {"": ([1.0, 2.0], [1.0, 1.0])}
    assert panel.x_label == "guidance_scale"
    failed = line(math.nan, sampler="ddim", guidance_scale=9.0, seed=3)
    (panel,) = run_plots.sweep([*records, failed], keys)
    assert panel.curves == {"": ([1.0, 2.0], [1.0, 1.0])}
    assert not run_plots.sweep([line(1.0, sampler=x, seed=2) for x in "ab"], keys)
    assert not run_plots.sweep([line(1.0, seed=x) for x in (1, 2)], keys)


def test_strip_of_a_chain(tmp_path):
    """The report shows eight frames of an animation next to each other, the first and
    the last among them; those of a reverse chain have their place in it below."""
    frames = np.linspace(0, 255, 20).astype(np.uint8)[None, :, None, None, None]
    frames = np.broadcast_to(frames, (1, 20, 8, 8, 1))
    labels = {}
    for name in ("frames", "rows"):
        workdir = make_run(tmp_path / name, log=LOG)
        images.save_animation(workdir / "sample.gif", frames)
        np.savez(workdir / "sample.npz", **{name: frames})
        report(run_config.stored_config(workdir), workdir)
        page = Page((workdir / "report.html").read_text(encoding="utf-8"))
        labels[name] = [x for x in page.alts if re.match("(after|frame) ", x)]
        assert all(page.alts) and not page.open
        assert "FD of pixels on test over training step" in page.alts
    percent = "after 5 % of the steps", "after 100 % of the steps"
    assert (labels["frames"][0], labels["frames"][-1]) == percent
    assert (labels["rows"][0], labels["rows"][-1]) == (
        "frame 1 of 20",
        "frame 20 of 20",
    )
    assert {len(x) for x in labels.values()} == {8}


def test_samples_say_how_they_were_drawn(tmp_path):
    """The report has the settings of --mode=sample below its picture, if known."""
    workdir = make_run(tmp_path / "run", log=LOG)
    for name in ("sample", "nearest"):
        images.save_grid(workdir / f"{name}.png", np.zeros((4, 8, 8, 1), np.uint8))
    settings = {"step": 20, "label": 3, "sampler": "ddim", "eta": 0.0}
    (workdir / "sample.json").write_text(json.dumps(settings))
    report(run_config.stored_config(workdir), workdir)
    page = Page((workdir / "report.html").read_text(encoding="utf-8"))
    assert {"nearest", "sample: step 20, label 3, sampler ddim"} <= {*page.alts}


@pytest.mark.parametrize("content", ["", '{"step": 1', "3", '"label"', "[1]"])
def test_damaged_settings_are_left_out(tmp_path, content, caplog):
    """The report is written without settings that cannot be read, and says so."""
    workdir = make_run(tmp_path / "run", log=LOG)
    images.save_grid(workdir / "sample.png", np.zeros((4, 8, 8, 1), np.uint8))
    (workdir / "sample.json").write_text(content)
    report(run_config.stored_config(workdir), workdir)
    page = Page((workdir / "report.html").read_text(encoding="utf-8"))
    assert "sample" in page.alts and "sample.json is damaged" in caplog.text


@pytest.mark.parametrize("file", ["configs/digits.py:tiny", "my configs/a.py", None])
def test_commands_of_the_report_name_the_config(tmp_path, file):
    """They have the file and the variant that the report was asked for with."""
    workdir = make_run(tmp_path / "run", log=LOG)
    report(run_config.stored_config(workdir), workdir, config_file=file)
    page = Page((workdir / "report.html").read_text(encoding="utf-8"))
    named = shlex.quote(file) if file else "CONFIG"
    assert f"--config={named} --workdir={workdir} --mode=sample" in page.text
    assert (file is None) == ("CONFIG is the config" in page.text)

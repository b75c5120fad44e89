"""Laws of the profile: the steps that were asked for, closed in any case."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from smoke import load

from diffusion_jax.training import logs, profiling
from diffusion_jax.training_loop import train

DOC = pathlib.Path(__file__).resolve().parents[2] / "docs/performance.md"


@pytest.mark.parametrize(
    "text,steps", [("", []), ("10:12", [10, 11]), ("0:1", [0]), ("99:100", [99])]
)
def test_steps(text, steps):
    """START:STOP are the steps of a Python range; nothing is none."""
    assert list(profiling.parse(text, 100)) == steps


@pytest.mark.parametrize(
    "text",
    ["10", "10:", ":12", "a:b", "12:10", "10:10", "-1:3", "10:101", "1:2:3", "1.0:2"],
)
def test_other_texts_are_refused(text):
    """Another form, no step, or steps beyond the last one raise an error."""
    with pytest.raises(ValueError, match=r"must be START:STOP, .* <= 100 "):
        profiling.parse(text, 100)


@jax.jit
def product(x):
    """The operation to find in the trace."""
    return jnp.tanh(x @ x)


def run(profile, last, monkeypatch):
    """Runs steps 0..last-1 and returns those that were traced."""
    running, traced = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: running.append(1))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: running.pop())
    with profile:
        for step in range(*last):
            if profile.starts(step):
                profile.start()
            if running:
                traced.append(step)
            if profile.ends(step + 1):
                profile.end()
            assert not running or step + 1 in range(2, 5), "what follows is traced too"
    assert not running, "the trace is left open"
    return traced


@pytest.mark.parametrize(
    "loop,traced",
    [((0, 9), [2, 3, 4]), ((3, 9), [3, 4]), ((0, 4), [2, 3]), ((5, 9), [])],
)
def test_only_these_steps_are_traced(tmp_path, monkeypatch, loop, traced):
    """Steps 2..4, also of a run that resumes or ends within them."""
    profile = profiling.Profile(range(2, 5), tmp_path)
    assert run(profile, loop, monkeypatch) == traced


def test_an_error_closes_the_trace(tmp_path):
    """After an error within the steps the trace is written, and another one can be
    started."""
    for name in "ab":
        workdir = tmp_path / name
        with (
            pytest.raises(FloatingPointError),
            profiling.Profile(range(5), workdir) as profile,
        ):
            profile.start()
            raise FloatingPointError
        assert len(list(workdir.rglob("perfetto_trace.json.gz"))) == 1


def test_a_trace_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    """A warning that names the folder; the training goes on."""

    def fail():
        raise OSError("No space left on device")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    with profiling.Profile(range(1), tmp_path) as profile:
        profile.start()
    assert f"No trace in {tmp_path}/profile: No space left" in caplog.text


def test_the_documented_reader(tmp_path, capsys):
    """The snippet of the docs prints the operations of the trace with their times."""
    x = jnp.ones((512, 512))
    jax.block_until_ready(product(x))
    with profiling.Profile(range(1), tmp_path / "runs/trace") as profile:
        profile.start()
        jax.block_until_ready(product(x))
    (snippet,) = re.findall(r"(?ms)^```python\n(.*?)^```", DOC.read_text())
    exec(snippet.replace('"runs/', f'"{tmp_path}/runs/'), {})
    lines = capsys.readouterr().out.splitlines()
    program = product.lower(x).compile().as_text()
    assert lines
    for line in lines:
        time, name = re.fullmatch(r" *(\d+\.\d\d) ms  (\S+)", line).groups()
        assert float(time) >= 0 and name in program


def test_a_run_with_a_profile(tmp_path, caplog):
    """--config.train.profile=1:3 writes one trace of a run, which ends with the state
    of a run without it; its lines have the speed, and its memory is said before. A
    profile beyond the last step is refused before anything is written."""
    caplog.set_level("INFO")
    config = load("digits_vae")
    config.train.profile = "3:5"
    with pytest.raises(ValueError, match="train.profile is '3:5'"):
        train(config, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    config.train.profile = "1:3"
    train(config, tmp_path / "traced")
    config.train.profile = ""
    train(config, tmp_path / "plain")
    assert len(list(tmp_path.rglob("perfetto_trace.json.gz"))) == 1
    assert (tmp_path / "traced/profile").is_dir()
    assert "The train step needs about " in caplog.text
    lines = [
        [
            json.loads(x)
            for x in (tmp_path / name / logs.METRICS).read_text().splitlines()
        ]
        for name in ("traced", "plain")
    ]
    assert {"step_time", "images_per_second", "data_wait"} <= lines[0][-1].keys()
    traced, plain = ([line["loss"] for line in x if "loss" in line] for x in lines)
    assert traced == plain

"""Each command on its smallest case writes the records that it promises."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import comparisons, startup
from diffusion_jax.diffusion import schedules

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ["--config=configs/digits.py:tiny", "--batch_size=8", "--rounds=2"]
TINY += ["--seconds=0.05", "--set", "model.channel_multipliers=(1,)"]
COMMON = {"benchmark", "time", "commit", "machine", "versions"}
COMPARISON = {
    "config": str,
    "what": str,
    "side": str,
    "batch_size": int,
    "dtype": str,
    "parameters": int,
    "milliseconds": float,
    "user_milliseconds": float,
    "images_per_second": float,
    "gflops_per_second": float,
    "ceiling_gflops_per_second": dict,
    "share": float,
    "megabytes": float,
}


def run(name, *arguments):
    """Runs a command; returns its records and what it printed."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(x) for x in result.stdout.splitlines() if x[:1] == "{"], result


def check_comparison(record):
    assert record.keys() >= COMMON | COMPARISON.keys()
    for name, kind in COMPARISON.items():
        assert isinstance(record[name], kind), name
        assert kind is not float or record[name] > 0 or name == "user_milliseconds"
    rate = 1e3 * record["batch_size"] / record["milliseconds"]
    np.testing.assert_allclose(record["images_per_second"], rate)
    ceiling = max(record["ceiling_gflops_per_second"].values())
    np.testing.assert_allclose(record["gflops_per_second"] / ceiling, record["share"])
    assert record["versions"]["jax"] == jax.__version__


def test_train_step_against_torch():
    """A record for each side, of networks with equally many parameters."""
    pytest.importorskip("torch")
    (ours, theirs), _ = run("train_step", *TINY, "--against", "torch", "--json")
    check_comparison(ours)
    check_comparison(theirs)
    assert ours["parameters"] == theirs["parameters"]
    ratio = theirs["ratio"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_sampling(tmp_path):
    """A record is appended to the file, and a row of the table is printed."""
    path = tmp_path / "records.jsonl"
    _, result = run("sampling", *TINY, "--tasks", "ddim:2", "--output", str(path))
    check_comparison(json.loads(path.read_text()))
    rows = [x for x in result.stdout.splitlines() if x.startswith("|")]
    assert len(rows) == 3 and len({row.count("|") for row in rows}) == 1


def test_generation():
    """A record for each side, of networks with equally many parameters."""
    pytest.importorskip("transformers")
    arguments = ["--lengths=8", "--num_layers=1", "--width=8", "--seconds=0.05"]
    records, _ = run("generation", *arguments, "--rounds=2", "--json")
    assert [x["side"] for x in records] == ["cached", "recomputed", "transformers"]
    assert len({x["parameters"] for x in records}) == 1
    for record in records:
        rate = 8e3 / record["milliseconds"]
        np.testing.assert_allclose(record["tokens_per_second"], rate)


def test_scaling():
    """A record for each point, and one with the exponents of the axis."""
    tiny = ["--set", "model.base_channels=8", "model.channel_multipliers=(1,)"]
    arguments = ["--axes", "samples at once", "--points=2", *tiny, "--json"]
    (*points, fit), _ = run("scaling", *arguments)
    assert [x["value"] for x in points] == [8, 32] == fit["values"]
    assert all(x["milliseconds"] > 0 and x["megabytes"] > 0 for x in points)
    law = np.log(points[1]["megabytes"] / points[0]["megabytes"]) / np.log(4)
    np.testing.assert_allclose(fit["memory"]["exponent"], law)


def test_equality_on_one_device():
    """A device equals itself in float32, and is close to itself in bfloat16."""
    arguments = ["--config=configs/cifar10.py:tiny", "--batch_size=2", "--json"]
    records, _ = run("equality", *arguments)
    assert [x["dtype"] for x in records] == ["float32"] * 4 + ["bfloat16"] * 4
    assert all(x["distance"] == 0 for x in records[:4])
    assert all(0 < x["distance"] < x["tolerance"] for x in records[4:])


def test_startup_commands(tmp_path):
    """The first step is measured without logs of later ones, on data that are here."""
    tiny = startup.make_command(startup.parse_case("digits:tiny"), tmp_path)
    assert tiny[-1] == "--config=configs/digits.py:tiny"
    command = startup.make_command(startup.parse_case("cifar10:first_step"), tmp_path)
    assert f"--config.data.source=npz:{tmp_path}/cifar10.npz" in command
    assert np.load(tmp_path / "cifar10.npz")["images"].shape[1:] == (32, 32, 3)
    with pytest.raises(ValueError, match="digits:all"):
        startup.parse_case("digits:all")


def test_session_seconds():
    """CPU time of a session is that of its processes, also of those that it started."""
    work = "import time\nwhile time.process_time() < 0.5: pass\n"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])\n"
    code += f"{work}print(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        process.stdout.readline()
        assert 0.95 < startup.session_seconds(process.pid) < 1.5
        process.communicate(b"\n")


def test_load_config():
    """Changes have the types of Python's literals; other text is a string."""
    changes = ["data.batch_size=7", "model.channel_multipliers=(1,)", "name=x"]
    config = comparisons.load_config("configs/digits.py", changes)
    assert config["data"]["batch_size"] == 7 and config["name"] == "x"
    assert config["model"]["channel_multipliers"] == (1,)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_their_schedule(name):
    """The PyTorch side adds as much noise as ours."""
    pytest.importorskip("torch")
    from benchmarks import pytorch

    ours = schedules.alpha_bar(getattr(schedules, name)(50))
    np.testing.assert_allclose(pytorch.make_alpha_bar(name, 50), ours, rtol=1e-12)

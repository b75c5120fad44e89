"""The notebooks of the documentation run, here in a small form."""

import json
import logging
import pathlib

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs/notebooks"
SMALL_NETWORK = {
    "model.base_channels": 8,
    "model.channel_multipliers": (1,),
    "model.num_blocks": 0,
    "data.batch_size": 8,
    "diffusion.num_timesteps": 20,
    "sample.num_steps": 4,
    "train.sample_every": 2,
    "train.evaluate_every": 0,
    "eval.num_terms": 4,
}


def run(name, monkeypatch, **small):
    """Runs a notebook in its folder; returns its variables.

    Args:
      name: of the notebook.
      **small: values that are set after the cell tagged "parameters", as papermill
        does.
    """
    matplotlib.use("Agg")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.syspath_prepend(ROOT)
    variables, logger = {}, logging.getLogger("diffusion_jax")
    level = logger.level
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1
    for cell in cells:
        exec("".join(cell["source"]), variables)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert small.keys() <= variables.keys()
            variables |= small
    logger.setLevel(level)
    return variables


def test_ddpm_from_scratch(monkeypatch):
    """The loss of a network whose output is small begins at that of a prediction of 0,
    which is 1; both chains end in finite images in the range of the data."""
    found = run("ddpm_from_scratch", monkeypatch, NUM_STEPS=3, BATCH=16, T=24)
    assert found["history"].shape == (3,) and 0.5 < found["history"][0] < 2
    assert found["chain"].shape == (24, 10, 8, 8, 1)
    np.testing.assert_array_equal(found["samples"], found["chain"][-1])
    for x in (found["samples"], found["x_0"]):
        assert np.all(np.isfinite(x)) and x.shape == (10, 8, 8, 1)
    assert np.abs(found["samples"]).max() <= 1


def test_own_pictures(tmp_path, monkeypatch):
    """From the pictures it draws to the report; training sees both classes."""
    small = {"WORKDIR": str(tmp_path / "run"), "CHANGES": SMALL_NETWORK}
    found = run("own_pictures", monkeypatch, NUM_STEPS=2, **small)
    assert found["model"].config.model.num_classes == 2
    assert found["images"].shape == found["of_classes"].shape == (16, 16, 16, 3)
    assert 0 <= found["copying"]["copied_share"] <= 1
    assert found["bound"]["bits_per_dim"] > 0
    Image.open(tmp_path / "run/nearest.png").verify()
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda x: x.stem
)
def test_stored_outputs(path):
    """A notebook is small, and its outputs are those of one run from top to bottom."""
    assert path.stat().st_size < 200_000
    cells = json.loads(path.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in codes]
    assert counts in ([None] * len(codes), list(range(1, len(codes) + 1)))
    outputs = [output for cell in codes for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)

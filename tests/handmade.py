"""The files of runs, written by hand instead of by training."""

import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image
from smoke import load

from diffusion_jax import planning, run_config, run_data


def make_run(
    workdir: pathlib.Path,
    config_name: str = "digits",
    log: list[dict[str, Any]] | None = None,
    evaluations: list[dict[str, Any]] | None = None,
    samples: bool = True,
    **changes,
) -> pathlib.Path:
    """Writes what a run of configs/NAME.py:tiny leaves, but for its checkpoints.

    Args:
      workdir: the run's folder.
      config_name: of the config.
      log: lines of metrics.jsonl.
      evaluations: lines of evaluations.jsonl, without what all of them have.
      samples: whether there is a picture of step 20.
      **changes: of the config, see `smoke.load`.

    Returns:
      The folder.
    """
    config = planning.complete(load(config_name, **changes))
    workdir.mkdir(parents=True)
    run_config.write_config(config, run_data.open_train(config).fields, workdir)
    common = {"config": config.name, "step": 20, "data": config.data.source}
    for name, lines in (
        ("metrics.jsonl", log or []),
        ("evaluations.jsonl", [common | line for line in evaluations or []]),
    ):
        (workdir / name).write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    if samples:
        (workdir / "samples").mkdir()
        image = Image.fromarray(np.zeros((512, 512), np.uint8))
        image.save(workdir / "samples/00000020.png")
    return workdir

"""--mode=evaluate: computes metrics of a trained model and appends JSON lines."""

import datetime
import json
import logging
import pathlib

import jax
from ml_collections import ConfigDict

from diffusion_jax import evaluators, runs
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Appends the metrics of eval.metric to evaluations.jsonl, and prints them.

    A line holds the metrics and the settings they depend on. With eval.sweep there is
    one line for each combination of its values.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir, or no data.
      ValueError: the config does not match the checkpoint, or a name is unknown.
    """
    name = config.eval.metric
    if name != "samples" and any(config.eval.sweep.values()):
        raise ValueError(
            "eval.sweep varies the sampling options of eval.metric 'samples' and has "
            f"no effect on {name!r}: use 'samples', or leave the sweep empty."
        )
    run = runs.load(config, workdir, config.eval.checkpoint)
    for metrics, settings in evaluators.make(config, run.method, workdir)(
        run.variables
    ):
        record = {
            "metric": name,
            "config": config.name,
            "step": run.step,
            "data": config.data.source,
            "parameters": "ema",
            **metrics,
            **settings,
            "jax": jax.__version__,
            "date": datetime.date.today().isoformat(),
        }
        line = json.dumps(record)
        if parallel.process_index() == 0:
            with (workdir / "evaluations.jsonl").open("a") as file:
                file.write(line + "\n")
            LOGGER.info("Appended to %s.", workdir / "evaluations.jsonl")
            print(line, flush=True)  # last, for scripts that parse the output

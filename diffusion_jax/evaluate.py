"""Measures a trained run, and appends JSON lines."""

import datetime
import json
import logging
import pathlib

import jax
import ml_collections

from diffusion_jax import evaluators, runs
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)


def evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Appends lines to evaluations.jsonl and prints them.

    A line holds the figures of eval.metric, and what they depend on.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir, or no data.
      ValueError: the config does not fit the checkpoint, or a name is unknown.
    """
    name = config.eval.measure
    if name != "samples" and any(config.eval.sweep.values()):
        raise ValueError(
            "eval.sweep goes through ways of drawing for eval.metric samples, not "
            f"for {name!r}: set eval.metric to samples, or leave the sweep empty."
        )
    method, state = runs.load(config, workdir, config.eval.checkpoint)
    for found, settings in evaluators.make(config, method, workdir)(state):
        record = {
            "measure": name,
            "config": config.name,
            "step": int(state.step),
            "data": config.data.source,
            "parameters": "ema",
            **found,
            **settings,
            "jax": jax.__version__,
            "date": datetime.date.today().isoformat(),
        }
        line = json.dumps(record)
        if parallel.process_index() == 0:
            with (workdir / "evaluations.jsonl").open("a") as file:
                file.write(line + "\n")
            LOGGER.info("Appended to %s.", workdir / "evaluations.jsonl")
            print(line, flush=True)  # last, for whoever reads the output

"""--mode=evaluate: computes metrics of a trained model and appends JSON lines."""

import datetime
import logging
import pathlib
from math import isfinite
from typing import Any

import jax
from ml_collections import ConfigDict

from diffusion_jax import (
    evaluators,
    methods,
    paths,
    run_config,
    run_data,
    runs,
    strict_json,
)
from diffusion_jax.outputs import writers
from diffusion_jax.training import interrupts, parallel

LOGGER = logging.getLogger(__name__)


def evaluate(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path | None = None
) -> None:
    """Appends the metrics of eval.metric to evaluations.jsonl, and prints them.

    A line holds the metrics, the settings they depend on, and details. With eval.sweep
    there is one line for each combination of its values.

    Args:
      config: of the run.
      workdir: the run's folder; nothing in it changes if there is an output.
      output: folder of evaluations.jsonl; None for the workdir.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir, or no data.
      ValueError: the config does not match the checkpoint, or a name is unknown.
      Stopped: the program was asked to stop; complete lines have been written.
    """
    name, folder = config.eval.metric, output or workdir
    if name != "samples" and any(config.eval.sweep.values()):
        raise ValueError(
            "eval.sweep varies the sampling options of eval.metric 'samples' and has "
            f"no effect on {name!r}: use 'samples', or leave the sweep empty."
        )
    run_data.forget()
    methods.check(config)
    with interrupts.handled():
        writers.check_writable(folder)
        run = runs.load(config, workdir, config.eval.checkpoint)
        fields = run_data.open_held_out(config).fields
        run_config.check_vocabularies(config, fields, workdir)
        run_config.warn_of_other_sizes(config, fields, workdir)
        evaluator = evaluators.make(config, run.method, folder)
        for found in evaluator(run.variables):
            record = {
                "metric": name,
                "config": config.name,
                "step": run.step,
                "data": config.data.source,
                "parameters": "ema",
                **found.metrics,
                **found.settings,
                **found.details,
                "jax": jax.__version__,
                "date": datetime.date.today().isoformat(),
            }
            if parallel.process_index() == 0:
                _append(folder / "evaluations.jsonl", record)


def _append(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Appends a record as a line, and prints it."""
    wrong = [k for k, x in record.items() if isinstance(x, float) and not isfinite(x)]
    if wrong:
        LOGGER.warning("Not finite, and null in the record: %s.", ", ".join(wrong))
    line = strict_json.dumps(record)
    try:
        with paths.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(line + "\n")
        LOGGER.info("Appended to %s.", path)
    finally:  # the metrics may have taken hours
        print(line, flush=True)  # last, for scripts that parse the output

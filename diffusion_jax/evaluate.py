"""--mode=evaluate: computes metrics of a trained model and appends JSON lines."""

import datetime
import logging
import pathlib
from collections.abc import Iterator
from math import isfinite
from typing import Any

import jax
from ml_collections import ConfigDict

from diffusion_jax import (
    evaluators,
    methods,
    paths,
    progress,
    run_config,
    run_data,
    run_plots,
    runs,
    strict_json,
)
from diffusion_jax.evaluators import tables
from diffusion_jax.outputs import plots, writers
from diffusion_jax.training import interrupts, parallel

LOGGER = logging.getLogger(__name__)


def evaluate(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path | None = None
) -> None:
    """Appends the metrics of eval.metric to evaluations.jsonl, and prints a table.

    A line holds the metrics, the settings they depend on, and details. With eval.sweep
    there is one line for each combination of its values, and a plot of those that are
    numbers, plots/sweep.png.

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
        records = []
        for record in compute(config, run, workdir, folder):
            records.append(record)
            if parallel.process_index() == 0:
                _append(folder / tables.EVALUATIONS, record)
    panels = run_plots.sweep(records, config.eval.sweep)
    if panels and parallel.process_index() == 0:
        plots.save_curves(folder / run_plots.FOLDER / run_plots.SWEEP, panels)


def compute(
    config: ConfigDict, run: runs.Run, workdir: pathlib.Path, output: pathlib.Path
) -> Iterator[dict[str, Any]]:
    """Computes eval.metric, once for each combination of eval.sweep's values.

    Args:
      config: of the run, checked.
      run: the trained model.
      workdir: the run's folder.
      output: folder of the files that some metrics write.

    Yields:
      The metrics, the settings they depend on, and details, by name.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the family has no such metric, or the config is invalid for it.
    """
    fields = run_data.open_held_out(config).fields
    run_config.check_vocabularies(config, fields, workdir)
    run_config.warn_of_other_sizes(config, fields, workdir)
    evaluator = evaluators.make(config, run.method, output)
    for found in evaluator(run.variables):
        yield {
            "metric": config.eval.metric,
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


def _append(path: pathlib.Path, line: dict[str, Any]) -> None:
    """Appends a line, and prints a table; where nobody reads, also the line."""
    wrong = [k for k, x in line.items() if isinstance(x, float) and not isfinite(x)]
    if wrong:
        LOGGER.warning("Not finite, and null in the record: %s.", ", ".join(wrong))
    text = strict_json.dumps(line)
    try:
        with paths.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(text + "\n")
        LOGGER.info("Appended to %s.", path)
    finally:  # the metrics may have taken hours
        title = f"{line['metric']} of {line['config']} at step {line['step']}"
        progress.CONSOLE.print(tables.table(title, tables.from_line(line)))
        if not progress.CONSOLE.is_terminal:
            print(text, flush=True)  # last, for scripts that parse the output

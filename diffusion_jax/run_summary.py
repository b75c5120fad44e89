"""What a run is and how far it has come, read from its files without its weights."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from diffusion_jax import methods, progress, run_config, strict_json
from diffusion_jax.data.base import Field
from diffusion_jax.evaluators import tables
from diffusion_jax.training import logs
from diffusion_jax.training.checkpoints import read_score


class Summary(NamedTuple):
    """A run.

    Attributes:
      config: of the run.
      workdir: the run's folder.
      fields: of the data it was trained on.
      num_parameters: of the model.
      log: the lines of metrics.jsonl.
      evaluations: the last evaluation during training, if there was one, and the lines
        of evaluations.jsonl, the last one last.
    """

    config: ConfigDict
    workdir: pathlib.Path
    fields: dict[str, Field]
    num_parameters: int
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def steps(self) -> str:
        """Returns such as "1,000 of 4,000"."""
        step = self._last_step()
        return f"{step:,} of {self.config.train.num_steps:,}"

    @property
    def training_time(self) -> str:
        """Returns an estimate of the time of all steps, such as "12 minutes".

        It is the number of steps times the mean step time in the log, without
        evaluation and sampling; "" if the log has no step times.
        """
        seconds = [line["step_time"] for line in self.log if "step_time" in line]
        if not seconds:
            return ""
        return progress.in_words(self._last_step() * sum(seconds) / len(seconds))

    @property
    def drawn(self) -> list[pathlib.Path]:
        """Returns the files that training drew, PNGs or texts, the last one last."""
        return sorted((self.workdir / logs.SAMPLES).glob("[0-9]*.*"))

    def rows(self) -> dict[str, str]:
        """Returns what the run is and how far it has come, by name."""
        config = self.config
        return {
            "family": config.method,
            "data": config.data.source,
            "parameters": f"{self.num_parameters:,}",
            "steps": self.steps,
            "examples per step": str(config.data.batch_size),
            "time of the train steps": self.training_time,
        }

    def _last_step(self) -> int:
        return max((line["step"] for line in self.log), default=0)


def read(config: ConfigDict, workdir: pathlib.Path) -> Summary:
    """Reads what training and evaluation have written.

    Args:
      config: of the run.
      workdir: the run's folder.

    Raises:
      FileNotFoundError: the fields of the data are missing.
      ValueError: a file is damaged.
    """
    fields = run_config.stored_fields(config, workdir)
    method = methods.make(config, fields)
    variables, _ = jax.eval_shape(lambda: method.init(jax.random.key(0)))
    log = strict_json.read_lines(workdir / logs.METRICS)
    evaluations = strict_json.read_lines(workdir / tables.EVALUATIONS)
    return Summary(
        config,
        workdir,
        fields,
        sum(math.prod(x.shape) for x in jax.tree.leaves(variables.params)),
        log,
        _last_in_training(config, workdir, log) + evaluations,
    )


def _last_in_training(
    config: ConfigDict, workdir: pathlib.Path, log: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the last evaluation in a log as a line of evaluations.jsonl.

    Its settings are read from the checkpoint's score. The list is empty if there is no
    evaluation whose checkpoint is still there.
    """
    prefix = f"{config.eval.split}_"
    for line in reversed(log):
        values = {
            name.removeprefix(prefix): value
            for name, value in line.items()
            if name.startswith(prefix)
        }
        if not values:
            continue
        score = read_score(workdir / run_config.CHECKPOINTS / str(line["step"]))
        if score and score.settings:
            data = {"step": line["step"], "data": config.data.source}
            return [data | values | score.settings]
    return []

"""A trained model in Python: load the folder of a run and sample."""

import numbers
import os
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import methods, paths, run_config, run_data, runs, task_runner
from diffusion_jax.data import transforms
from diffusion_jax.data.base import Field
from diffusion_jax.lookup import lookup


class TrainedModel:
    """The model of a run.

    Attributes:
      config: the run's config; its group sample holds the defaults of `sample`.
      workdir: the run's folder.
      step: of the checkpoint.
      method: the family's functions, see `methods.base.Method`.
      variables: parameters and statistics, averaged and ready for inference.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, run: runs.Run):
        self.config = config
        self.workdir = workdir
        self.method, self.variables, self.step = run

    def sample(self, num_examples: int = 16, **options: Any) -> np.ndarray | list[str]:
        """Draws samples: what the task sample of the model's family returns.

        Args:
          num_examples: N, how many.
          **options: see `run`, such as seed=1, prompt="The" or sampler="dpmpp_2m".

        Returns:
          u8[N, H, W, C] images, N texts, or f32[N, D] points.

        Raises:
          ValueError: see `run`.
        """
        outputs = self.run("sample", num_examples, **options)
        return next(x for name, x in outputs.items() if name not in ("source", "label"))

    def run(self, task: str, num_examples: int = 16, **options: Any) -> dict[str, Any]:
        """Runs a task of the model's family; every call compiles it anew.

        Args:
          task: its name, as in config.sample.task.
          num_examples: N.
          **options: values of the config's group sample that replace the run's; the
            prompt of images may also be a list.

        Returns:
          The outputs by name: images as u8[N, ..., H, W, C], a list of N texts, other
          arrays [N, ...] as the task returns them.

        Raises:
          ValueError: there is no such task or option, or a value is invalid.
          TypeError: a value has another type than the config's.
          FileNotFoundError: the task reads data, and they are missing.
        """
        if useless := {"checkpoint", "animation"} & options.keys():
            raise ValueError(
                f"{', '.join(sorted(useless))}: not an option here. The checkpoint is "
                "chosen by load(..., checkpoint=...), and no files are written."
            )
        if not isinstance(num_examples, numbers.Integral):
            raise TypeError(
                f"num_examples must be an integer, not {num_examples!r}. Options have "
                'names, such as prompt="a seven".'
            )
        config = self.config.copy_and_resolve_references()
        run_config.check_keys(config, [f"sample.{name}" for name in options])
        batch_size = max(1, min(num_examples, config.sample.batch_size))
        defaults = {"num_examples": num_examples, "batch_size": batch_size}
        for name, value in {**defaults, **options, "task": task}.items():
            _set(config.sample, name, value)
        run_data.forget()
        methods.check(config)
        runner = task_runner.make(config, self.method, task)
        run_config.check_vocabularies(config, runner.source.fields, self.workdir)
        run_config.warn_of_other_sizes(config, runner.source.fields, self.workdir)
        outputs = runner.run(self.variables)
        return {name: _readable(x, runner.fields[name]) for name, x in outputs.items()}


def load(workdir: str | os.PathLike, checkpoint: str = "last") -> TrainedModel:
    """Loads the model of a run.

    Args:
      workdir: the run's folder.
      checkpoint: "last" or "best".

    Raises:
      FileNotFoundError: there is no run, or no such checkpoint.
      ValueError: a file of the run is damaged, or the checkpoint's name is unknown.
    """
    folder = paths.local(workdir)
    config = run_config.stored_config(folder)
    defaults = lookup(methods.FAMILIES, config.method, "method").defaults()
    config = run_config.complete(config, defaults, folder)
    return TrainedModel(config, folder, runs.load(config, folder, checkpoint))


def _set(group: ConfigDict, name: str, value: Any) -> None:
    """Sets a value of the group sample, which may be a number of NumPy.

    Raises:
      TypeError: it has another type than the group's.
    """
    if name == "prompt" and not isinstance(value, str | None):
        is_list = isinstance(value, list | tuple)
        if not is_list or not all(isinstance(x, str) for x in value):
            raise TypeError(f"prompt must be a text or a list of texts, not {value!r}.")
    try:
        group[name] = value.item() if isinstance(value, np.generic) else value
    except TypeError as error:
        kind = group.get_type(name).__name__
        raise TypeError(f"{name} must be of type {kind}, not {value!r}.") from error


def _readable(x: np.ndarray, field: Field) -> np.ndarray | list[str]:
    """Turns images into bytes and tokens of a vocabulary into text."""
    if field.kind == "image":
        return transforms.to_uint8(x)
    if field.vocabulary is not None:
        return [field.vocabulary.decode(row) for row in x]
    return x

"""Models in Python: train or load a run, sample, evaluate, process images."""

import numbers
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import (
    evaluate,
    methods,
    paths,
    run_config,
    run_data,
    runs,
    task_runner,
    training_loop,
)
from diffusion_jax.data import transforms
from diffusion_jax.data.base import (
    COND_IMAGE,
    ArraySource,
    Field,
    Source,
    check_integers,
    label_field,
)
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

    def __repr__(self) -> str:
        return (
            f"<{self.config.method} model of {self.config.data.source}, step "
            f"{self.step}, in {self.workdir}>"
        )

    def sample(self, num_examples: int = 16, **options: Any) -> np.ndarray | Any:
        """Draws samples: what the task sample of the model's family returns.

        Args:
          num_examples: N, how many.
          **options: see `run`, such as seed=1, sampler="dpmpp_2m", label=3 or
            prompt="The".

        Returns:
          u8[N, H, W, C] images, f32[N, D] points, or a list of N texts.

        Raises:
          ValueError: see `run`.
        """
        outputs = self.run("sample", num_examples, **options)
        return next(x for name, x in outputs.items() if name not in ("source", "label"))

    def reconstruct(
        self, images: np.ndarray, labels: np.ndarray | None = None, **options: Any
    ) -> np.ndarray:
        """Encodes images of your own and decodes them again.

        Args:
          images: u8[N, H, W, C] of the model's size, or [N, H, W] if C = 1.
          labels: [N], their classes, if the model is conditioned on classes.
          **options: see `run`.

        Returns:
          u8[N, H, W, C].

        Raises:
          ValueError: the images have another dtype or shape, the family does not
            reconstruct, or see `run`.
        """
        data = self._examples(labels, **{self._data_name("reconstruct"): images})
        return self.run("reconstruct", len(data), data=data, **options)["rows"][:, -1]

    def interpolate(
        self,
        a: np.ndarray,
        b: np.ndarray,
        labels: tuple[np.ndarray, np.ndarray] | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Goes from each image of a to the one of b in the same place.

        Args:
          a: u8[N, H, W, C] of the model's size, or [N, H, W] if C = 1.
          b: as a.
          labels: the classes of a and of b, [N] each, if the model is conditioned on
            classes.
          **options: see `run`.

        Returns:
          u8[N, k, H, W, C], rows of images.

        Raises:
          ValueError: the images have another dtype or shape, the family does not
            interpolate images, or see `run`.
        """
        name = self._data_name("interpolate")
        ends = [self._examples(None, **{name: images}) for images in (a, b)]
        num = len(ends[0])
        if len(ends[1]) != num:
            raise ValueError(
                f"There are {num} images in a and {len(ends[1])} in b: give as many of "
                "both."
            )
        # The partner of example i is example i + num.
        both = np.concatenate([end.arrays[name] for end in ends])
        data = self._examples(
            None if labels is None else np.concatenate(labels), **{name: both}
        )
        return self.run("interpolate", num, data=data, **options)["rows"]

    def translate(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        reverse: bool = False,
        **options: Any,
    ) -> np.ndarray:
        """Translates images of your own: for CycleGAN, pix2pix and diffusion models.

        Args:
          images: u8[N, H, W, C] of the size of the first domain, or of the images that
            the model is conditioned on; [N, H, W] if C = 1.
          labels: [N], classes, if the model is conditioned on classes as well.
          reverse: from the second domain to the first; only CycleGAN can.
          **options: see `run`.

        Returns:
          u8[N, H, W, C]; where results are random, one for each image.

        Raises:
          ValueError: the images have another dtype or shape, the model does not
            translate images, or see `run`.
        """
        if self.config.method == "cyclegan":
            task, field = ("b_to_a", "image_b") if reverse else ("a_to_b", "image_a")
            data = self._examples(labels, **{field: images})
            return self.run(task, len(data), data=data, **options)["rows"][:, 1]
        if reverse:
            raise ValueError("reverse=True is only for a CycleGAN: leave it out.")
        name = self._data_name("translate")
        if COND_IMAGE not in run_config.stored_fields(self.config, self.workdir):
            raise ValueError(
                f"This {self.config.method} was trained without pairs of images: load "
                "a run of a CycleGAN, a pix2pix, or a diffusion model that is "
                "conditioned on images."
            )
        data = self._examples(labels, **{COND_IMAGE: images})
        return self.run("sample", len(data), data=data, **options)[name]

    def evaluate(
        self,
        metric: str | None = None,
        sample: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Computes a metric, as --mode=evaluate does, which also appends it to a file.

        Args:
          metric: as in config.eval.metric; None for the run's own.
          sample: values of the config's group sample that replace the run's, such as
            num_examples, for metrics that draw samples.
          **options: values of the group eval that replace the run's, such as split.

        Returns:
          The metrics, the settings they depend on, and details, by name.
          rate_distortion writes its curve, and copying nearest.png, into the run's
          folder.

        Raises:
          ValueError: there is no such metric or option, or a value is invalid.
          TypeError: a value has another type than the config's.
          FileNotFoundError: the data, a classifier or a scorer are missing.
        """
        if useless := {"checkpoint", "sweep"} & options.keys():
            raise ValueError(
                f"{', '.join(sorted(useless))}: not an option here. The checkpoint is "
                "chosen by load(..., checkpoint=...), and a sweep is a loop over "
                "evaluate(sample=...)."
            )
        config = self.config.copy_and_resolve_references()
        given = {"sample": dict(sample or {}), "eval": options}
        if metric is not None:
            given["eval"] = options | {"metric": metric}
        for group, values in given.items():
            run_config.check_keys(config, [f"{group}.{name}" for name in values])
            for name, value in values.items():
                _set(config[group], name, value)
        config.eval.sweep.update(dict.fromkeys(config.eval.sweep, ()))
        run_data.forget()
        methods.check(config)
        run = runs.Run(self.method, self.variables, self.step)
        return next(evaluate.compute(config, run, self.workdir, self.workdir))

    def run(
        self,
        task: str,
        num_examples: int = 16,
        *,
        data: Source | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Runs a task of the model's family; every call compiles it anew.

        Args:
          task: its name, as in config.sample.task.
          num_examples: N.
          data: examples of your own to read instead of those of eval.split, such as a
            `data.base.ArraySource`; with the fields that the task reads, and no others.
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
        fields = run_config.stored_fields(config, self.workdir)
        names = run_config.class_names(config, fields)
        runner = task_runner.make(config, self.method, task, data, names)
        run_config.check_vocabularies(config, runner.source.fields, self.workdir)
        run_config.warn_of_other_sizes(config, runner.source.fields, self.workdir)
        outputs = runner.run(self.variables)
        return {name: _readable(x, runner.fields[name]) for name, x in outputs.items()}

    def _data_name(self, task: str) -> str:
        """Returns the name of the field that the model generates.

        Raises:
          ValueError: the family does not have the task.
        """
        family = self.config.method
        lookup(methods.FAMILIES[family].tasks, task, f"task of a {family} model")
        return self.method.data

    def _examples(self, labels: np.ndarray | None, **images: np.ndarray) -> ArraySource:
        """Makes a source of images of the user, and perhaps of their classes.

        Raises:
          ValueError: they have another dtype or shape than the images and labels that
            the model was trained on.
        """
        fields = run_config.stored_fields(self.config, self.workdir)
        arrays = {name: np.asarray(x) for name, x in images.items()}
        for name, x in arrays.items():
            shape = fields[name].shape
            if x.ndim < 3:
                raise ValueError(
                    f"The images must be an array {['N', *shape]}, not "
                    f"{images[name]!r:.60}."
                )
            if shape[-1] == 1 and x.shape[1:] == shape[:-1]:
                arrays[name] = x[..., None]
        if labels is not None:
            label = fields.setdefault("label", label_field(None))
            check_integers("labels", np.asarray(labels), label.size)
            arrays["label"] = np.asarray(labels, np.int32)
        fields = {name: fields[name] for name in arrays}
        return ArraySource(arrays, fields, "The given examples")


def train(config: ConfigDict, workdir: str | os.PathLike) -> TrainedModel:
    """Trains as --mode=train does, and returns the model.

    A run that is already in the folder is resumed; it must have the same config, up to
    what may change (docs/running.md). Ctrl-C saves, stops, and returns the model so
    far. The log is that of the logger "diffusion_jax".

    Args:
      config: such as `get_config()` of a file in configs/ returns.
      workdir: the run's folder.

    Raises:
      ValueError: the config is invalid, or does not match the data or an earlier run.
      FileNotFoundError: the data are missing.
      LockedError: another process is training in the workdir.
      FloatingPointError: the loss or the gradient is not finite.
    """
    folder = paths.local(workdir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not the folder of a run.")
    training_loop.train(config.copy_and_resolve_references(), folder)
    return load(folder)


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
    config = runs.complete_config(folder)
    return TrainedModel(config, folder, runs.load(config, folder, checkpoint))


def _set(group: ConfigDict, name: str, value: Any) -> None:
    """Sets a value of the group sample or eval, which may be a number of NumPy.

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

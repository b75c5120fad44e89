"""Runs sample.task: opens the examples that it reads and collects its outputs."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data
from diffusion_jax.data.base import (
    ArraySource,
    Field,
    Pairs,
    Range,
    Source,
    label_field,
)
from diffusion_jax.training.state import Variables


class TaskRunner(NamedTuple):
    """A task on sample.num_examples rows.

    Attributes:
      run: variables -> the task's outputs, and the labels among its inputs, [N, ...].
      fields: of these.
      source: the rows.
    """

    run: Callable[[Variables], inference.Arrays]
    fields: dict[str, Field]
    source: Source


def make(config: ConfigDict, method: methods.Method, name: str) -> TaskRunner:
    """Makes a function that runs a task on sample.num_examples rows.

    Args:
      config: of the run.
      method: that the config describes.
      name: of the task.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the family has no such task, or an option is invalid.
    """
    options = config.sample
    task = methods.make_task(config, method, name)
    source = open_source(config, task)
    stream = inference.make_stream(task, options.batch_size, options.seed)
    labels = {name: source.fields[name] for name in task.inputs if name == "label"}
    fields = task.outputs | labels

    def run(variables: Variables) -> inference.Arrays:
        rows = stream(variables, source, options.num_examples)
        return inference.collect(rows, *fields)

    return TaskRunner(run, fields, source)


def open_source(config: ConfigDict, task: methods.Task) -> Source:
    """Opens the sample.num_examples examples that a task reads.

    A task without data among its inputs reads indices, and the labels that sample.label
    asks for. A task with a prompt reads copies of sample.prompt. Other tasks read
    examples of eval.split. Partners are later examples.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: sample.label is not a class, or the data are not what the config says.
    """
    number, label = config.sample.num_examples, config.sample.get("label", -1)
    num_classes = config.model.get("num_classes", 0)
    if label != -1 and not 0 <= label < num_classes:
        if not num_classes:
            raise ValueError(
                f"sample.label = {label}, but the model has no classes "
                "(model.num_classes = 0): leave it at -1."
            )
        raise ValueError(
            f"sample.label = {label} is not one of the {num_classes} classes; -1 draws "
            "all of them in turn."
        )
    if task.prompts and config.sample.prompt is not None:
        return _prompts(config, task)
    inputs = {name.removeprefix("partner_") for name in task.inputs}
    reads_data = not inputs <= {"index", "label"}
    if reads_data:
        source = run_data.open_held_out(config)
    elif "label" in inputs:
        labels = np.arange(number) % num_classes if label < 0 else [label] * number
        arrays = {"label": np.array(labels, np.int32)}
        source = ArraySource(arrays, {"label": label_field(num_classes)}, "labels")
    else:
        source = Range(number)
    if inputs == set(task.inputs):
        return source
    # With a multiple of the split's length as offset, examples would meet themselves.
    wraps = reads_data and number % len(source) == 0
    return Pairs(source, 1 if wraps else number)


def _prompts(config: ConfigDict, task: methods.Task) -> Source:
    """Repeats the tokens of sample.prompt.

    Raises:
      ValueError: it contains what the vocabulary does not.
    """
    arrays, fields = {}, {}
    for name, encode in task.prompts.items():
        prompt = encode(config.sample.prompt)
        arrays[name] = np.tile(prompt, (config.sample.num_examples, 1))
        fields[name] = Field(prompt.shape, np.int32, "tokens")
    return ArraySource(arrays, fields, "sample.prompt")

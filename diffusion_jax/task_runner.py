"""Runs sample.task: opens the examples that it reads and collects its outputs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data
from diffusion_jax.data.base import (
    ArraySource,
    Example,
    Field,
    LazySource,
    Pairs,
    Range,
    Source,
    label_field,
)
from diffusion_jax.training.state import Variables


class TaskRunner(NamedTuple):
    """A task on sample.num_examples rows.

    Attributes:
      run: variables -> the task's outputs, [N, ...], and the labels of the examples if
        the task reads labels or captions.
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
    # A captioned example keeps its labels, to measure whether its image shows them.
    fields = dict(task.outputs)
    if {"label", "caption"} & set(task.inputs):
        fields |= {
            name: field
            for name, field in source.fields.items()
            if field.kind == "label"
            and field.size != 1
            and not name.startswith("partner_")
        }

    def run(variables: Variables) -> inference.Arrays:
        rows = stream(variables, source, options.num_examples)
        return inference.collect(rows, *fields)

    return TaskRunner(run, fields, source)


def open_source(config: ConfigDict, task: methods.Task) -> Source:
    """Opens the sample.num_examples examples that a task reads.

    A task without data among its inputs reads indices, and the labels that sample.label
    asks for. Other tasks read examples of eval.split. Partners are later examples.
    sample.prompt takes the place of the input that a task has prompts for.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: sample.label is not a class, the prompt has unknown words, or the data
        are not what the config says.
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
    prompt = config.sample.get("prompt")
    prompts = {}
    if prompt is not None:
        prompts = {name: encode(prompt) for name, encode in task.prompts.items()}
    if prompt and not prompts:
        raise ValueError("sample.prompt has no effect on this task: leave it out.")
    inputs = {name.removeprefix("partner_") for name in task.inputs} - prompts.keys()
    reads_data = not inputs <= {"index", "label"}
    if reads_data:
        source = run_data.open_held_out(config)
    elif "label" in inputs:
        if prompts and label < 0:
            raise ValueError(
                "The model is conditioned on classes, too: set sample.label to the "
                "class of sample.prompt."
            )
        labels = np.arange(number) % num_classes if label < 0 else [label] * number
        arrays = {"label": np.array(labels, np.int32)}
        source = ArraySource(arrays, {"label": label_field(num_classes)}, "labels")
    else:
        source = Range(number)
    if prompts:
        source = _with_prompts(source, prompts, number)
    if not any(name.startswith("partner_") for name in task.inputs):
        return source
    if prompts:  # the partner has the next prompt
        return Pairs(source, max(1, number // len(next(iter(prompts.values())))))
    # With a multiple of the split's length as offset, examples would meet themselves.
    wraps = reads_data and number % len(source) == 0
    return Pairs(source, 1 if wraps else number)


def _with_prompts(
    source: Source, prompts: Mapping[str, np.ndarray], number: int
) -> Source:
    """Gives each example one of k prompts; those of a prompt follow each other.

    Args:
      source: the examples, which keep their other fields.
      prompts: tokens i32[k, P] by name.
      number: of examples that will be read.

    Raises:
      ValueError: there are fewer examples than prompts.
    """
    num_prompts = len(next(iter(prompts.values())))
    if number < num_prompts:
        raise ValueError(
            f"sample.prompt has {num_prompts} prompts, and sample.num_examples is only "
            f"{number}: increase it."
        )
    fields = {x: Field(y.shape[1:], np.int32, "tokens") for x, y in prompts.items()}

    def example(i: int) -> Example:
        mine = {x: rows[i * len(rows) // number] for x, rows in prompts.items()}
        return source[i % len(source)] | mine

    return LazySource(number, example, {**source.fields, **fields}, "sample.prompt")

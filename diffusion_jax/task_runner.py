"""Runs sample.task: opens the examples that it reads and collects its outputs."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data, scorers
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
from diffusion_jax.methods import reranking
from diffusion_jax.training.state import Variables

LOGGER = logging.getLogger(__name__)
MAX_NAMED = 20  # classes in a message


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


def make(
    config: ConfigDict,
    method: methods.Method,
    name: str,
    data: Source | None = None,
    class_names: tuple[str, ...] = (),
) -> TaskRunner:
    """Makes a function that runs a task on sample.num_examples rows.

    With sample.num_candidates it draws several samples of each caption and keeps the
    one that is most similar to the caption by sample.scorer. If there are fewer
    examples than rows they repeat, which logs a warning, except for samples.

    Args:
      config: of the run.
      method: that the config describes.
      name: of the task.
      data: examples to read instead of those of eval.split.
      class_names: of the classes that sample.label chooses from, if they have some.

    Raises:
      FileNotFoundError: the data or the scorer are missing.
      ValueError: the family has no such task, or an option is invalid.
    """
    options = config.sample
    task = methods.make_task(config, method, name)
    source = open_source(config, task, data, class_names)
    scorer = _open_scorer(config, method, task)
    if name != "sample" and len(source) < options.num_examples:
        LOGGER.warning(
            "%s: %d examples, fewer than sample.num_examples = %d, so they repeat.",
            f"eval.split {config.eval.split!r}" if data is None else "The given data",
            len(source),
            options.num_examples,
        )
    if scorer:
        num = options.num_candidates
        task = reranking.rerank(task, method.data, scorer.method, scorer.ids, num)
    stream = inference.make_stream(
        task, options.batch_size, options.seed, f"Running {name}", _advice(options)
    )
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
        if scorer:
            variables = reranking.with_scorer(variables, scorer.variables)
        rows = stream(variables, source, options.num_examples)
        return inference.collect(rows, *fields)

    return TaskRunner(run, fields, source)


def _advice(options: ConfigDict) -> str:
    """Returns a sentence on how to sample faster; "" if there is no such option."""
    if "num_steps" not in options:
        return ""
    return f"Fewer sample.num_steps, now {options.num_steps}, take less in proportion."


def _open_scorer(
    config: ConfigDict, method: methods.Method, task: methods.Task
) -> scorers.Scorer | None:
    """Opens the scorer that chooses among candidates; None if there is only one."""
    options = config.sample
    num, workdir = options.get("num_candidates", 1), options.get("scorer", "")
    if num == 1 and not workdir:
        return None
    if not workdir:
        raise ValueError(
            f"sample.num_candidates = {num} needs a scorer that chooses one: set "
            "sample.scorer to the folder of a contrastive run."
        )
    if num == 1:
        raise ValueError(
            "sample.scorer chooses among several samples, and sample.num_candidates = 1"
            ": increase it, or leave sample.scorer empty."
        )
    if not {method.data, "caption"} <= task.outputs.keys():
        raise ValueError(
            "sample.scorer has no effect on this task, which does not return one image "
            "per caption: leave it empty, and set sample.num_candidates=1."
        )
    image, caption = task.outputs[method.data], task.outputs["caption"]
    source = config.data.source
    return scorers.open_scorer(workdir, source, image, caption, "sample.scorer")


def open_source(
    config: ConfigDict,
    task: methods.Task,
    data: Source | None = None,
    class_names: tuple[str, ...] = (),
) -> Source:
    """Opens the sample.num_examples examples that a task reads.

    A task without data among its inputs reads indices, and the labels that sample.label
    asks for. Other tasks read examples of eval.split. Partners are later examples.
    sample.prompt takes the place of the input that a task has prompts for.

    Args:
      config: of the run.
      task: that reads them.
      data: examples to read instead of those of eval.split; they have the fields that
        the task reads, and no others.
      class_names: see `make`.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: sample.label is not a class, the prompt has unknown words, or the data
        are not what the config says or the task reads.
    """
    number, label = config.sample.num_examples, config.sample.get("label", -1)
    num_classes = config.model.get("num_classes", 0)
    if label != -1 and not 0 <= label < num_classes:
        if not num_classes:
            raise ValueError(
                f"sample.label = {label}, but the model has no classes "
                "(model.num_classes = 0): leave it at -1."
            )
        named = ", ".join(f"{i} {x}" for i, x in enumerate(class_names[:MAX_NAMED]))
        raise ValueError(
            f"sample.label = {label} is not one of the {num_classes} classes"
            f"{f' ({named})' if named else ''}; -1 draws all of them in turn."
        )
    prompt = config.sample.get("prompt")
    prompts = {}
    if prompt is not None:
        prompts = {name: encode(prompt) for name, encode in task.prompts.items()}
    if prompt and not prompts:
        raise ValueError("sample.prompt has no effect on this task: leave it out.")
    inputs = {name.removeprefix("partner_") for name in task.inputs} - prompts.keys()
    reads_data = not inputs <= {"index", "label"}
    if data is not None:
        _check_fields(data, inputs - {"index"} if reads_data else set())
    if reads_data:
        if label >= 0:
            raise ValueError(
                "sample.label has no effect on this task, which takes its examples "
                "from eval.split: leave it at -1."
            )
        if data is not None:
            source = data
        elif inputs <= {"index", "image_a"}:
            source = run_data.open_domain(config, "a")
        elif inputs <= {"index", "image_b"}:
            source = run_data.open_domain(config, "b")
        else:
            source = run_data.open_held_out(config)
    elif "label" in inputs:
        if prompts and label < 0:
            raise ValueError(
                "The model is conditioned on classes, too: set sample.label to the "
                "class of sample.prompt."
            )
        labels = np.arange(number) % num_classes if label < 0 else [label] * number
        if label >= 0 and class_names:
            LOGGER.info("Class %d is %s.", label, class_names[label])
        arrays = {"label": np.array(labels, np.int32)}
        field = label_field(num_classes, class_names)
        source = ArraySource(arrays, {"label": field}, "labels")
    else:
        source = Range(number)
    if any(name.startswith("partner_") for name in task.inputs):
        # With a multiple of the length as offset, examples would meet themselves; but
        # a new index is another example where the index is an input.
        wraps = "partner_index" not in task.inputs and number % len(source) == 0
        source = Pairs(source, 1 if wraps else number)
    return _with_prompts(source, prompts, number, task.inputs) if prompts else source


def _check_fields(data: Source, needed: Collection[str]) -> None:
    """Raises ValueError unless data have exactly the fields that a task reads."""
    if data.fields.keys() != needed:
        reads = ", ".join(sorted(needed)) or "no examples"
        if needed - data.fields.keys() == {"label"}:
            remedy = "the model is conditioned on classes, so pass labels=[...]"
        else:
            remedy = "give it what it reads, or choose another task"
        raise ValueError(
            f"This task of the model reads {reads}, and was given "
            f"{', '.join(sorted(data.fields))}: {remedy}."
        )


def _with_prompts(
    source: Source,
    prompts: Mapping[str, np.ndarray],
    number: int,
    inputs: Collection[str],
) -> Source:
    """Gives each example one of k prompts; those of a prompt follow each other.

    A partner has the next prompt, and that of the last one is the first.

    Args:
      source: the examples.
      prompts: tokens i32[k, P] by name.
      number: of examples that will be read.
      inputs: of the task; other fields are left out, since they may contradict a
        prompt.

    Raises:
      ValueError: there are fewer examples than prompts, or a partner needs a second
        one.
    """
    num_prompts = len(next(iter(prompts.values())))
    if number < num_prompts:
        raise ValueError(
            f"sample.prompt has {num_prompts} prompts, and sample.num_examples is only "
            f"{number}: increase it."
        )
    rows = {x: tokens for x, tokens in prompts.items() if x in inputs}
    partners = {x: prompts[x] for x in prompts if f"partner_{x}" in inputs}
    if partners and num_prompts == 1:
        raise ValueError(
            "This task goes from one prompt to the next: give sample.prompt at least "
            "two, with | between them."
        )
    rows |= {f"partner_{x}": np.roll(y, -1, axis=0) for x, y in partners.items()}
    tokens = {x: Field(y.shape[1:], np.int32, "tokens") for x, y in rows.items()}
    fields = {x: y for x, y in source.fields.items() if x in inputs} | tokens

    def example(i: int) -> Example:
        drawn = {x: y[i * num_prompts // number] for x, y in rows.items()}
        found = source[i % len(source)] | drawn
        return {x: found[x] for x in fields}

    return LazySource(number, example, fields, "sample.prompt")

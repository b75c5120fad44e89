"""The evaluator interface, and functions that several evaluators share."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data
from diffusion_jax.data.base import Source, Unpaired
from diffusion_jax.inference import Arrays
from diffusion_jax.training.state import Variables

LOGGER = logging.getLogger(__name__)

MAX_VALUES = 4096  # per example, in metrics that compute a covariance matrix
IRRELEVANT = (  # keys of group sample that do not affect samples
    "checkpoint task num_examples batch_size animation num_frames strength "
    "num_resamplings"
).split()
SCORED_DATA = (  # keys of group data that determine what a metric measures
    "source source_b image_size image_width num_channels background held_out context "
    "max_length"
).split()
MAX_DUPLICATES = 0.02  # share of held-out examples that may equal training examples


class Record(NamedTuple):
    """Metrics, and the settings they depend on.

    Attributes:
      metrics: values by name; the first one is the score, lower is better.
      settings: values by name. Scores with equal settings can be compared.
      details: further values by name, such as the duration.
    """

    metrics: dict[str, Any]
    settings: dict[str, Any]
    details: dict[str, Any] = {}


# Variables for inference -> one record, or one per combination in eval.sweep.
Evaluator = Callable[[Variables], Iterator[Record]]


def over_held_out(
    config: ConfigDict, method: methods.Method, task_name: str
) -> Callable[[Variables], Iterator[Arrays]]:
    """Makes a function that runs a task over every example of eval.split.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the data do not match the config, or an option is invalid.
    """
    source = run_data.open_held_out(config)
    task = methods.make_task(config, method, task_name)
    batch_size = min(config.eval.batch_size, len(source))
    stream = inference.make_stream(
        task, batch_size, config.eval.seed, f"Running {task_name}"
    )
    return lambda variables: stream(variables, source, len(source))


def sampling_settings(config: ConfigDict) -> dict[str, Any]:
    """Returns the settings that samples depend on.

    Those of a cascade's upsamplers have the names of the stages in front.
    """
    diffusion = dict(config.diffusion) if "diffusion" in config else {}
    for stage in config.cascade.upsamplers if "cascade" in config else ():
        for key, value in config[stage].diffusion.items():
            diffusion[f"{stage}.{key}"] = value
    sampling = {
        key: value
        for key, value in config.sample.items()
        if key not in IRRELEVANT and value not in (None, "")  # no prompt, no scorer
    }
    if "cond_noise" in diffusion:
        # Sampling has a level of its own.
        diffusion["trained_cond_noise"] = diffusion.pop("cond_noise")
    return diffusion | sampling


def data_settings(config: ConfigDict) -> dict[str, Any]:
    """Returns the settings of the data that determine what a metric measures."""
    return {key: config.data[key] for key in SCORED_DATA if key in config.data}


def check_held_out(config: ConfigDict) -> None:
    """Checks that the evaluation data are not among the training data.

    Sources that know the positions or files of their examples may have none in common.
    Others compare the content: since real data contain a few images twice, up to
    MAX_DUPLICATES of the evaluation data are only warned about.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: examples of eval.split are also in data.train_split, in either domain.
    """
    train, held_out = run_data.open_train(config), run_data.open_held_out(config)
    if not isinstance(train, Unpaired):
        _compare(config, train, held_out)
        return
    for suffix, key in (("_a", ""), ("_b", "_b")):
        _compare(config, train.parts[suffix], held_out.parts[suffix], key)


def _compare(
    config: ConfigDict, train: Source, held_out: Source, suffix: str = ""
) -> None:
    asked, trained = config.eval[f"split{suffix}"], config.data[f"train_split{suffix}"]
    ours, theirs = held_out.identities(), train.identities()
    if ours is None or theirs is None:
        by_content, num = False, len(held_out) if asked == trained else 0
    else:
        known, by_content = set(theirs.values), ours.by_content
        num = sum(value in known for value in ours.values)
    if not num:
        return
    sentence = (
        f"{num} of the {len(held_out)} examples of eval.split{suffix} {asked!r} are "
        f"also in data.train_split{suffix} {trained!r}"
    )
    if by_content and num <= MAX_DUPLICATES * len(held_out):
        LOGGER.warning("%s.", sentence)
        return
    raise ValueError(
        f"{sentence}: this eval.metric needs held-out data; choose another split."
    )

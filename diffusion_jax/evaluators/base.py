"""The evaluator interface, and functions that several evaluators share."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data
from diffusion_jax.inference import Arrays
from diffusion_jax.training.state import Variables

MAX_VALUES = 4096  # per example, in metrics that compute a covariance matrix


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
    stream = inference.make_stream(task, config.eval.batch_size, config.eval.seed)
    return lambda variables: stream(variables, source, len(source))


def check_held_out(config: ConfigDict) -> None:
    """Checks that the evaluation data are not the training data.

    Raises:
      ValueError: eval.split is data.train_split.
    """
    if config.eval.split == config.data.train_split:
        raise ValueError(
            f"eval.split and data.train_split are both {config.eval.split!r}: this "
            "eval.metric needs held-out data."
        )

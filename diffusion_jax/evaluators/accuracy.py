"""The accuracy of a classifier."""

import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from diffusion_jax import inference, methods
from diffusion_jax.evaluators.base import Evaluator, Record, over_held_out
from diffusion_jax.training.state import Variables


def make_accuracy(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of the classification error on eval.split."""
    classify = over_held_out(config, method, "classify")

    def evaluate(variables: Variables) -> Iterator[Record]:
        rows = inference.collect(classify(variables), "probabilities", "label")
        error = float((rows["probabilities"].argmax(axis=1) != rows["label"]).mean())
        settings = {"split": config.eval.split, "num_examples": len(rows["label"])}
        yield Record({"error": error, "accuracy": 1 - error}, settings)

    return evaluate

"""How often a classifier is right."""

import pathlib
from collections.abc import Iterator

import ml_collections

from diffusion_jax import methods, runs
from diffusion_jax.evaluators.base import Measure, Record, over_epoch
from diffusion_jax.training.state import TrainState


def make_accuracy(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """The share of eval.split that gets another class than its own."""
    run = methods.make_evaluate(method, config.eval.seed)
    source = runs.open_held_out(config)

    def measure(state: TrainState) -> Iterator[Record]:
        seen = over_epoch(run, state, config, kept=("label",))
        wrong = seen["probabilities"].argmax(axis=1) != seen["label"]
        found = {"error": float(wrong.mean()), "accuracy": float(1 - wrong.mean())}
        yield Record(found, {"split": config.eval.split, "num_examples": len(source)})

    return measure

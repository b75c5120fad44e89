"""Evaluators, chosen by eval.metric: they run a task over data and compute metrics.

`make` opens the data and validates the config. The evaluator that it returns computes
the metrics of any variables; training and --mode=evaluate share it.
"""

import pathlib

from ml_collections import ConfigDict

from diffusion_jax import methods
from diffusion_jax.evaluators import (
    accuracy,
    autoencoder,
    likelihood,
    samples,
    text,
    translation,
)
from diffusion_jax.evaluators.base import Evaluator, Record
from diffusion_jax.lookup import lookup

__all__ = ["EVALUATORS", "Evaluator", "Record", "check_name", "make"]


def make(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes the evaluator that eval.metric names.

    Raises:
      FileNotFoundError: the data or a classifier are missing.
      ValueError: the family has no such metric, or the config is invalid for it.
    """
    check_name(config)
    _, make_named = lookup(EVALUATORS, config.eval.metric, "eval.metric")
    return make_named(config, method, workdir)


def check_name(config: ConfigDict) -> None:
    """Raises ValueError if the family has metrics, but not the one of eval.metric."""
    tasks = methods.FAMILIES[config.method].tasks
    known = {name: row for name, row in EVALUATORS.items() if row[0] <= tasks.keys()}
    if {"nats", "target_nats"} & tasks.keys():  # samples of text have no distances
        known = {name: row for name, row in known.items() if name not in NOT_TEXT}
    if known:
        lookup(known, config.eval.metric, f"eval.metric of a {config.method}")


NOT_TEXT = ("samples", "modes")
# name -> (tasks that the family must have, function that makes the evaluator).
EVALUATORS = {
    "vlb": ({"vlb"}, likelihood.make_vlb),
    "rate_distortion": ({"vlb"}, likelihood.make_rate_distortion),
    "ode_likelihood": ({"log_likelihood"}, likelihood.make_ode_likelihood),
    "elbo": ({"elbo"}, autoencoder.make_elbo),
    "reconstruction": ({"reconstruct", "traverse"}, autoencoder.make_reconstruction),
    "translation": ({"translate"}, translation.make_translation),
    "accuracy": ({"classify"}, accuracy.make_accuracy),
    "bits_per_character": ({"nats"}, text.make_bits_per_character),
    "perplexity": ({"target_nats"}, text.make_perplexity),
    "exact_match": ({"sample", "align"}, text.make_exact_match),
    "bleu": ({"sample", "align"}, text.make_bleu),
    "samples": ({"sample"}, samples.make_samples),
    "modes": ({"sample"}, samples.make_modes),
}

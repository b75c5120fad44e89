"""Evaluators, chosen by eval.metric: they run a task over data and compute metrics.

`make` opens the data and validates the config. The evaluator that it returns computes
the metrics of any variables; training and --mode=evaluate share it.
"""

import pathlib
from collections.abc import Callable, Set
from typing import NamedTuple

from ml_collections import ConfigDict

from diffusion_jax import methods
from diffusion_jax.evaluators import (
    accuracy,
    autoencoder,
    copying,
    likelihood,
    paired,
    retrieval,
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
    row = lookup(EVALUATORS, config.eval.metric, "eval.metric")
    return row.make(config, method, workdir)


def check_name(config: ConfigDict) -> None:
    """Raises ValueError if the family has metrics, but not the one of eval.metric."""
    tasks = methods.FAMILIES[config.method].tasks.keys()
    known = {name: row for name, row in EVALUATORS.items() if row.fits(tasks)}
    if known:
        lookup(known, config.eval.metric, f"eval.metric of a {config.method}")


class Row(NamedTuple):
    """An evaluator, and the families that it is for.

    Attributes:
      needs: tasks that the family must have.
      make: (config, method, workdir) -> evaluator.
      excludes: tasks that the family must not have.
      one_of: tasks of which the family must have at least one; empty: no condition.
    """

    needs: set[str]
    make: Callable[[ConfigDict, methods.Method, pathlib.Path], Evaluator]
    excludes: Set[str] = frozenset()
    one_of: Set[str] = frozenset()

    def fits(self, tasks: Set[str]) -> bool:
        """Returns whether a family with these tasks has the metric."""
        one = not self.one_of or bool(self.one_of & tasks)
        return one and self.needs <= tasks and not self.excludes & tasks


TEXT = {"nats", "target_nats"}  # samples of text have no distances
CAPTIONED = {"embed", "token_nats", "guidance", "stages"}  # of families with captions
EVALUATORS = {
    "vlb": Row({"vlb"}, likelihood.make_vlb),
    "rate_distortion": Row({"vlb"}, likelihood.make_rate_distortion),
    "ode_likelihood": Row({"log_likelihood"}, likelihood.make_ode_likelihood),
    "elbo": Row({"elbo"}, autoencoder.make_elbo),
    "reconstruction": Row({"reconstruct", "traverse"}, autoencoder.make_reconstruction),
    "codes": Row({"codes"}, autoencoder.make_codes),
    "translation": Row(
        {"translate"}, translation.make_translation, excludes={"sample"}
    ),
    "paired": Row({"sample", "translate"}, paired.make_paired, excludes={"stages"}),
    "accuracy": Row({"classify"}, accuracy.make_accuracy),
    "retrieval": Row(set(), retrieval.make_retrieval, one_of=CAPTIONED),
    "bits_per_character": Row({"nats"}, text.make_bits_per_character),
    "perplexity": Row({"target_nats"}, text.make_perplexity),
    "token_nats": Row({"token_nats"}, text.make_token_nats),
    "exact_match": Row({"sample", "align"}, text.make_exact_match),
    "bleu": Row({"sample", "align"}, text.make_bleu),
    "samples": Row({"sample"}, samples.make_samples, excludes=TEXT),
    "copying": Row({"sample"}, copying.make_copying, excludes=TEXT),
    "modes": Row({"sample"}, samples.make_modes, excludes=TEXT),
}

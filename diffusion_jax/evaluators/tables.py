"""Metrics as a table, with their baselines and a sentence on what they mean."""

import re
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from diffusion_jax.evaluators.base import Record

EVALUATIONS = "evaluations.jsonl"  # in a run's folder, or in --output
# By the name of a metric, without "of ..." and all after a comma.
MEANINGS = {
    "FD": "distance of samples from real images, at best that between two sets of real "
    "ones",
    "absolute_error": "mean difference from the target, in [0, 1]",
    "accuracy": "share of examples that are classified right",
    "active_units": "latents that carry information",
    "bits_per_character": "the code length of held-out text",
    "bits_per_dim": "the code length of held-out images; 8: uniform bytes",
    "bleu": "n-gram overlap with the references, 0 to 100",
    "class_kept_to": "share of images that keep their class when translated",
    "class_lost": "share of images that lose their class when translated",
    "classes_covered": "classes that occur among the samples",
    "conditional_accuracy": "share of samples that show what they are conditioned on",
    "confident_share": "share of samples that the classifier is sure of",
    "copied_share": "share of samples nearer to training images than 95 % of held-out "
    "images are; about 0.05 without copying, and 0 for noise",
    "coverage": "share of real images with a sample nearby: variety",
    "cycle": "difference after translating there and back, in [0, 1]",
    "decoder": "bits/dim of the last step, L_0",
    "density": "how many real images have a sample nearby: fidelity; about 1 is best",
    "distance_to_pair": "difference from the true partner, in [0, 1]",
    "distortion": "root mean squared error, in levels of 0 to 255",
    "error": "share of examples that are wrong",
    "exact_match": "share of outputs that are right as a whole",
    "image_to_text_recall": "share of images whose caption is the most similar one",
    "kl": "nats per example in the latents; 0: they are ignored",
    "modes_covered": "modes that enough samples reach",
    "modes_missing": "modes that too few samples reach",
    "modes_touched": "modes that any sample reaches",
    "nats_per_code": "the code length of a held-out image token",
    "nats_per_token": "the code length of a held-out word or token",
    "nearest_distance": "distance to the nearest training image; copying if far below "
    "that of held-out real images",
    "negative_bleu": "the score: -BLEU",
    "negative_elbo": "an upper bound of -log p(x) in nats",
    "negative_importance_bound": "a tighter bound of -log p(x) in nats",
    "perplexity": "effective number of codes in use, exp(entropy)",
    "perplexity_per_token": "as uncertain as among so many equally likely tokens",
    "precision": "share of samples that look real",
    "prior": "bits/dim between the noise at T and the prior, L_T; about 0",
    "psnr": "decibels",
    "rate": "bits/dim of the latents",
    "recall": "share of real images that are like samples: variety",
    "reconstruction": "nats that the data take, given the latents",
    "retrieval_error": "share of captions and images that are not found",
    "share_within_3_sigma": "share of samples at a mode; 0.989 is that of real points",
    "squared_error": "mean squared difference, in [0, 1]",
    "text_to_image_recall": "share of captions whose image is the most similar one",
    "token_error_rate": "edits per token of the target",
    "transitions": "bits/dim of all steps between, L_1 to L_{T-1}",
    "usage": "share of the codebook that is in use",
}
# Which of two values is better, as far as it is known. A trade-off with another metric,
# such as rate against distortion, and one that is best at a baseline have no direction.
DIRECTIONS = {
    "lower": "FD absolute_error bits_per_character bits_per_dim class_lost cycle "
    "distance_to_pair error modes_missing nats_per_code nats_per_token negative_bleu "
    "negative_elbo negative_importance_bound perplexity_per_token retrieval_error "
    "squared_error token_error_rate".split(),
    "higher": "accuracy bleu class_kept_to classes_covered conditional_accuracy "
    "coverage exact_match image_to_text_recall modes_covered modes_touched precision "
    "psnr recall text_to_image_recall".split(),
}
CONTROLS = {"squared_error_of_pca": ("squared_error", "PCA")}  # with irregular names
NOT_SHOWN = "seconds", "standard_error"
# The settings that say how many examples a metric is a mean of.
NUMBERS = "num_samples", "num_examples", "num_pairs", "num_tokens"
HEADER = "metric", "value", "baseline", "meaning"


class Line(NamedTuple):
    """A metric, for people.

    Attributes:
      name: of the metric.
      value: rounded, with its standard error if it is known.
      baselines: such as "real 0.07, shuffled 0.1".
      meaning: a sentence.
    """

    name: str
    value: str
    baselines: str
    meaning: str


def lines(record: Record) -> list[Line]:
    """Returns the metrics of a record that are numbers, with their baselines."""
    metrics: dict[str, str] = {}
    baselines: dict[str, list[str]] = {}
    for name, value in (record.metrics | record.details).items():
        is_number = isinstance(value, float | int | None)
        if not is_number or name.startswith("num_") or name in NOT_SHOWN:
            continue
        shown = "not finite" if value is None else f"{value:.4g}"  # null in JSON
        of, what = control(name)
        of = next((x for x in (of, f"conditional_{of}") if x in record.metrics), "")
        if of:
            baselines.setdefault(of, []).append(f"{what} {shown}")
        else:
            metrics[name] = shown
    error = record.metrics.get("standard_error")
    if error is not None:
        metrics[next(iter(metrics))] += f" ± {error:.2g}"
    return [
        Line(name, value, ", ".join(baselines.get(name, [])), meaning(name))
        for name, value in metrics.items()
    ]


def control(name: str) -> tuple[str, str]:
    """Returns the metric that a value is a baseline of, and what it is called.

    The name of a metric, which is no baseline, has "" for the metric.
    """
    if name in CONTROLS:
        return CONTROLS[name]
    real = re.fullmatch("(.*)_real(.*)", name)  # such as accuracy_real of size
    if real:
        return real[1] + real[2], "real"
    of, _, what = name.rpartition(", ")
    return of, what


def meaning(name: str) -> str:
    """Returns a sentence on a metric; empty if there is none."""
    known = _row(MEANINGS, name)
    better = direction(name)
    return f"{known}; {better} is better" if known and better else known


def direction(name: str) -> str:
    """Returns which values of a metric are better: "lower", "higher" or "", unknown."""
    better = {x: way for way, names in DIRECTIONS.items() for x in names}
    return _row(better, name)


def _row(table: dict[str, str], name: str) -> str:
    """Returns what a table has on a metric, also of one domain or label; "" if none."""
    stem = re.sub("(_[ab]| of .*|, .*)$", "", name)
    return table.get(name) or table.get(stem, "")


def is_score(name: str) -> bool:
    """Returns whether a name is that of a metric with a meaning, and no baseline."""
    return bool(meaning(name)) and not control(name)[0]


def is_metric(name: str) -> bool:
    """Returns whether a name is that of a metric with a meaning, or its baseline."""
    return bool(meaning(name) or meaning(control(name)[0]))


def from_line(line: dict[str, Any]) -> Record:
    """Returns the record that a line of evaluations.jsonl was made of.

    What is no metric, nor a baseline of one, is among its settings.
    """
    metrics = {
        name: value
        for name, value in line.items()
        if is_metric(name) or name == "standard_error"
    }
    return Record(metrics, {name: line[name] for name in line.keys() - metrics.keys()})


def joined(value: Any) -> str:
    """Returns a setting as text: "train and test" of two splits."""
    is_several = isinstance(value, list | tuple)
    return " and ".join(map(str, value)) if is_several else str(value)


def title(what: str, record: Record) -> str:
    """Returns what was evaluated, with the number of examples if it is known."""
    settings = record.settings | record.metrics
    number = next((f"{settings[x]:,}" for x in NUMBERS if x in settings), None)
    return f"{what}, N = {number}" if number else what


def table(what: str, record: Record) -> Table:
    """Returns a table of a record's metrics, for a terminal.

    Args:
      what: was evaluated, for the title.
      record: of an evaluator.
    """
    made = Table(title=title(what, record), title_justify="left", box=box.SIMPLE_HEAD)
    for name in HEADER:
        justify = "right" if name == "value" else "left"
        made.add_column(name, justify=justify, overflow="fold")
    for line in lines(record):
        made.add_row(*line)
    return made

"""The evaluator of image-to-image translation between two domains."""

import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import methods
from diffusion_jax.evaluators.base import Evaluator, Record, over_held_out
from diffusion_jax.evaluators.feature_extractors import open_feature_extractor
from diffusion_jax.methods.base import check_range
from diffusion_jax.training.state import Variables

# Columns of the task's rows.
A, TO_B, BACK_A, B, TO_A, BACK_B = range(6)


def make_translation(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of translations between the two eval splits.

    class_kept_to_x (with a classifier of domain x) is the share of translations that
    keep their class, distance_to_pair_x (with paired splits) the distance from a
    translation to its partner, cycle_x the distance from an image to its cycle
    translation. Distances are mean absolute differences in units of [0, 1].

    A low cycle distance is not enough: the generators can hide the original image in
    its translation. So the score is the share of classes lost, or else the distance to
    the pair, if these are known.
    """
    options = config.eval
    check_range(method.field, "eval.metric translation", "choose data with images")
    translate = over_held_out(config, method, "translate")
    extractors = {
        name: open_feature_extractor(
            options[key], source, method.field.shape, f"eval.{key}"
        )
        for name, key, source in (
            ("a", "classifier", config.data.source),
            ("b", "classifier_b", config.data.source_b),
        )
        if options[key]
    }

    def of_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The metrics of each example by name, [b] each."""
        rows, by_example = batch["rows"], {}
        for name, other, column in (("a", "b", TO_A), ("b", "a", TO_B)):
            if name in extractors:
                seen = extractors[name].extract(rows[:, column])
                predicted = seen["probabilities"].argmax(axis=1)
                by_example[f"class_kept_to_{name}"] = (
                    predicted == batch[f"label_{other}"]
                )
        if options.paired:
            by_example["distance_to_pair_a"] = _distance(rows[:, TO_A], rows[:, A])
            by_example["distance_to_pair_b"] = _distance(rows[:, TO_B], rows[:, B])
        by_example["cycle_a"] = _distance(rows[:, BACK_A], rows[:, A])
        by_example["cycle_b"] = _distance(rows[:, BACK_B], rows[:, B])
        return by_example

    def evaluate(variables: Variables) -> Iterator[Record]:
        batches = [of_batch(batch) for batch in translate(variables)]
        columns = {
            name: np.concatenate([batch[name] for batch in batches])
            for name in batches[0]
        }
        by_domain = {name: float(x.mean()) for name, x in columns.items()}

        metrics = {}  # averaged over the domains; the first one is the score
        for name in ("class_kept_to", "distance_to_pair", "cycle"):
            values = [by_domain.get(f"{name}_{domain}") for domain in "ab"]
            if values != [None, None]:
                metrics[name] = float(np.mean([x for x in values if x is not None]))
        if "class_kept_to" in metrics:
            metrics = {"class_lost": 1 - metrics.pop("class_kept_to"), **metrics}
        settings = {
            "splits": [options.split, options.split_b],
            "num_pairs": len(columns["cycle_a"]),
            "classifiers": [options.classifier, options.classifier_b],
            "classifier_ids": [extractor.id for extractor in extractors.values()],
        }
        yield Record(metrics | by_domain, settings)

    return evaluate


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each example in units of [0, 1], [B]."""
    return np.abs(x - y).reshape(len(x), -1).mean(axis=1) / 2

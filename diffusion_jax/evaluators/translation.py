"""What becomes of pictures between two domains."""

import pathlib
from collections.abc import Iterator

import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.evaluators.base import Measure, Record, over_epoch
from diffusion_jax.measures.extractor import open_feature_extractor
from diffusion_jax.training.state import TrainState


def make_translation(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Where classifiers know the domains, whether the class is kept; where the held-out
    pictures are pairs, how far a translation is from its partner; and cycles.

    Distances are mean absolute differences in units of [0, 1]. A low cycle distance
    alone says nothing: two translators may agree on a code of their own. So the score
    is the share of classes lost, or the distance to the partner, where there is one.
    """
    options = config.eval
    runs.open_held_out(config)  # refused before anything is compiled
    run = methods.make_evaluate(method, options.seed)
    judges = {
        name: open_feature_extractor(
            options[key], source, method.image_shape, f"eval.{key}"
        )
        for name, key, source in (
            ("a", "classifier", config.data.source),
            ("b", "classifier_b", config.data.source_b),
        )
        if options[key]
    }

    def translate(state: TrainState, batch: dict) -> dict[str, np.ndarray]:
        measured = run(state, batch)
        if judges or options.paired:
            return measured
        return {name: measured[name] for name in ("cycle_a", "cycle_b")}  # the small

    kept = ["label_a", "label_b"] + ["image_a", "image_b"] * options.paired

    def measure(state: TrainState) -> Iterator[Record]:
        seen = over_epoch(translate, state, config, kept)
        same, gap = {}, {}
        for name, other in (("a", "b"), ("b", "a")):
            if name in judges:
                called = judges[name].look(seen[f"to_{name}"])["probabilities"]
                right = called.argmax(axis=1) == seen[f"label_{other}"]
                same[f"class_kept_to_{name}"] = float(right.mean())
            if options.paired:
                distance = np.abs(seen[f"to_{name}"] - seen[f"image_{name}"])
                gap[f"distance_to_pair_{name}"] = float(distance.mean() / 2)
        cycles = {name: float(seen[name].mean() / 2) for name in ("cycle_a", "cycle_b")}
        found = {"class_lost": 1 - float(np.mean(list(same.values())))} if same else {}
        found |= {"distance_to_pair": float(np.mean(list(gap.values())))} if gap else {}
        found |= {"cycle": float(np.mean(list(cycles.values())))}
        found |= same | gap | cycles
        settings = {
            "splits": [options.split, options.split_b],
            "num_pairs": len(seen["cycle_a"]),
            "classifiers": [options.classifier, options.classifier_b],
        }
        yield Record(found, settings)

    return measure

"""What becomes of pictures between two domains."""

import pathlib
from collections.abc import Iterator

import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.measures.base import Measure, Record, over_epoch
from diffusion_jax.measures.judge import open_judge
from diffusion_jax.training.state import TrainState


def make_translation(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Cycles; where classifiers know both domains, whether the class is kept; and where
    the held-out pictures are pairs, how far a translation is from its partner.

    Distances are mean absolute differences in units of [0, 1]. A low cycle distance
    alone says nothing: two translators may agree on a code of their own.
    """
    options = config.eval
    runs.open_source(config, options.split)  # refused before anything is compiled
    run = methods.make_evaluate(method, options.seed)
    judges = {
        name: open_judge(workdir, method.image_shape)
        for name, workdir in (("a", options.classifier), ("b", options.classifier_b))
        if workdir
    }

    def measure(state: TrainState) -> Iterator[Record]:
        kept = ("image_a", "image_b", "label_a", "label_b")
        seen = over_epoch(run, state, config, kept)
        found = {
            "cycle": float(np.mean([seen["cycle_a"], seen["cycle_b"]]) / 2),
            "cycle_a": float(seen["cycle_a"].mean() / 2),
            "cycle_b": float(seen["cycle_b"].mean() / 2),
        }
        for name, other in (("a", "b"), ("b", "a")):
            made = seen[f"to_{name}"]
            if name in judges:
                called = judges[name].look(made)["probabilities"].argmax(axis=1)
                same = called == seen[f"label_{other}"]
                found[f"class_kept_to_{name}"] = float(same.mean())
            if options.paired:
                gap = np.abs(made - seen[f"image_{name}"])
                found[f"distance_to_pair_{name}"] = float(gap.mean() / 2)
        settings = {
            "splits": [options.split, options.split_b],
            "num_pairs": len(seen["cycle_a"]),
            "classifiers": [options.classifier, options.classifier_b],
        }
        yield Record(found, settings)

    return measure

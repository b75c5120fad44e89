"""Samples of any family beside real pictures, or the modes of a known density."""

import itertools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.data import points
from diffusion_jax.evaluators.base import (
    MAX_VALUES,
    Measure,
    Record,
    check_held_out,
    read,
)
from diffusion_jax.measures.extractor import FeatureExtractor, open_feature_extractor
from diffusion_jax.metrics import frechet, modes, neighbours
from diffusion_jax.training.state import TrainState

MAX_REAL = 20_000  # real pictures, drawn from both splits where there are more
MIN_SAMPLES = 6  # neighbours are counted up to the fifth
NUM_FLOORS = 5  # of which the median is told
CONFIDENT = 0.9
NOT_OF_SAMPLES = (  # what of the group sample changes no sample
    "checkpoint num_images batch_size view animation concepts num_frames start "
    "num_resamplings"
).split()


class Real(NamedTuple):
    """Real pictures in a random order, at most MAX_REAL of both splits.

    Attributes:
      features: [N, F] by name of a set of neighbours.
      floors: what as many real ones as samples, or half of them, score against the
        other real ones.
      is_train: [N], whether a picture is of the train split.
      settings: about them.
    """

    features: dict[str, np.ndarray]
    floors: dict[str, float]
    is_train: np.ndarray
    settings: dict[str, Any]


def make_samples(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """Fréchet distances of samples to real pictures, and a classifier's opinion.

    A distance is called after its features: "FD of pixels" in [0, 1], where pictures
    are small, and "FD of NAME", the features of the classifier in eval.classifier. Its
    floor is that of as many real pictures. One record for each combination of
    eval.sweep's values.

    Raises:
      FileNotFoundError: the data or the classifier are not there.
      ValueError: there is nothing to measure by.
    """
    num = config.sample.num_images
    check_held_out(config)
    if num < MIN_SAMPLES:
        raise ValueError(
            f"Samples are measured from {MIN_SAMPLES} (sample.num_images) on, not "
            f"{num}."
        )
    if "modes" in method.measures and config.data.source == "grid25":
        raise ValueError(
            "eval.metric samples is of pictures, and grid25 has points: choose modes."
        )
    extractor = None
    if config.eval.classifier:
        workdir, source = config.eval.classifier, config.data.source
        extractor = open_feature_extractor(workdir, source, method.image_shape)
    elif np.prod(method.image_shape) > MAX_VALUES:
        raise ValueError(
            f"Pictures of {np.prod(method.image_shape)} values are too large for a "
            f"distance of pixels (at most {MAX_VALUES}), and eval.classifier names no "
            "classifier: there is nothing to measure samples by."
        )
    variants = [(c, methods.make(c)) for c in _swept(config)]  # refused before work
    draws = [methods.make_draw(m, c.sample.batch_size) for c, m in variants]
    real = _real(config, extractor, num)

    def measure(state: TrainState) -> Iterator[Record]:
        for (variant, _), draw in zip(variants, draws, strict=True):
            start = time.monotonic()
            drawn = draw(state, num, variant.sample.seed)
            found = _compare(drawn, real, extractor)
            of_chain = dict(variant.diffusion) if "diffusion" in variant else {}
            settings = {
                "num_samples": num,
                **real.settings,
                **of_chain,
                **{k: v for k, v in variant.sample.items() if k not in NOT_OF_SAMPLES},
                "seconds": round(time.monotonic() - start, 1),
            }
            yield Record(found, settings)

    return measure


def _swept(config: ml_collections.ConfigDict) -> Iterator[ml_collections.ConfigDict]:
    """Yields the config with each combination of eval.sweep's values in its sample.

    A key of the sweep without values keeps that of the config.
    """
    sweep = {key: values for key, values in config.eval.sweep.items() if values}
    for values in itertools.product(*sweep.values()):
        variant = config.copy_and_resolve_references()
        variant.sample.update(dict(zip(sweep, values, strict=True)))
        yield variant


def _features(
    images: np.ndarray, extractor: FeatureExtractor | None
) -> dict[str, np.ndarray]:
    """Vectors of pictures f32[N,H,W,C] by the name of the features, the extractor's first,
    and beside them its "probabilities"."""
    found = {}
    if extractor:
        seen = extractor.look(images)
        found = {
            extractor.name: seen["features"],
            "probabilities": seen["probabilities"],
        }
    if np.prod(images.shape[1:]) <= MAX_VALUES:
        found["pixels"] = (images.reshape(len(images), -1) + 1) / 2
    return found


def _real(
    config: ml_collections.ConfigDict, extractor: FeatureExtractor | None, num: int
) -> Real:
    """Features of real pictures of both splits, and their floors."""
    train, test = runs.open_train(config), runs.open_held_out(config)
    order = np.random.default_rng(0).permutation(len(train) + len(test))[:MAX_REAL]
    is_train = order < len(train)
    images = np.empty((len(order), *train[0]["image"].shape), np.float32)
    labels = np.empty(len(order), np.int32)
    for source, rows, first in ((train, is_train, 0), (test, ~is_train, len(train))):
        images[rows], labels[rows] = read(source, order[rows] - first)
    found = _features(images, extractor)
    settings: dict[str, Any] = {
        "num_real": len(images),
        "num_floor": min(num, len(images) // 2),
        "splits": [config.data.train_split, config.eval.split],
    }
    if extractor:
        seen, vectors = found.pop("probabilities"), found[extractor.name]
        right = (seen.argmax(axis=1) == labels)[~is_train]
        sure = seen.max(axis=1)[~is_train] > CONFIDENT
        settings |= {
            "classifier": extractor.name,
            "accuracy_real": float(right.mean()),
            "confident_share_real": float(sure.mean()),
            "nearest_distance_real": neighbours.nearest_distance(
                vectors[~is_train], vectors[is_train]
            ),
        }
    floors = {
        name: float(
            np.median([frechet.floor(x, seed, num) for seed in range(NUM_FLOORS)])
        )
        for name, x in found.items()
    }
    return Real(found, floors, is_train, settings)


def _compare(
    drawn: dict[str, np.ndarray], real: Real, extractor: FeatureExtractor | None
) -> dict:
    """All figures of samples, the distance of the extractor's features first."""
    of_samples = _features(np.clip(drawn["image"], -1, 1), extractor)
    found: dict[str, Any] = {}
    for name, vectors in real.features.items():
        found[f"FD of {name}"] = frechet.frechet_distance(of_samples[name], vectors)
        found[f"FD of {name}, floor"] = real.floors[name]
    if not extractor:
        return found
    vectors, probabilities = of_samples[extractor.name], of_samples["probabilities"]
    others = real.features[extractor.name]
    called = probabilities.argmax(axis=1)
    counts = neighbours.histogram(called, extractor.num_classes)
    precision, recall = neighbours.precision_recall(others[: len(vectors)], vectors)
    density, coverage = neighbours.density_coverage(others[: len(vectors)], vectors)
    found |= {
        "confident_share": float(np.mean(probabilities.max(axis=1) > CONFIDENT)),
        "histogram": counts,
        "classes_covered": neighbours.classes_covered(counts),
        "num_classes": extractor.num_classes,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "nearest_distance": neighbours.nearest_distance(vectors, others[real.is_train]),
    }
    if "label" in drawn:
        found["conditional_accuracy"] = float(np.mean(called == drawn["label"]))
    return found


def make_modes(
    config: ml_collections.ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Measure:
    """How many of the 25 modes of data.source grid25 samples reach, and how well.

    Raises:
      ValueError: the data are others.
    """
    if config.data.source != "grid25":
        raise ValueError(
            "eval.metric 'modes' is for data.source grid25, whose modes are known, "
            f"not for {config.data.source}: choose samples."
        )
    draw = methods.make_draw(method, config.sample.batch_size)
    num, seed = config.sample.num_images, config.sample.seed

    def measure(state: TrainState) -> Iterator[Record]:
        drawn = draw(state, num, seed)["image"].reshape(num, 2)
        found = modes.mode_count(drawn, points.CENTRES, points.SIGMA)
        total = len(points.CENTRES)
        figures = {
            "modes_missing": total - found.covered,
            "modes_covered": found.covered,
            "num_modes": total,
            "modes_touched": found.touched,
            "share_within_3_sigma": found.share_within,
            "histogram": found.histogram,
        }
        yield Record(figures, {"num_samples": num, "seed": seed})

    return measure

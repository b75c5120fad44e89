"""Evaluators of samples: against real images, or the modes of a known density."""

import itertools
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import methods, run_data, task_runner
from diffusion_jax.data import loader, points
from diffusion_jax.data.base import Field
from diffusion_jax.evaluators.accuracy import accuracies
from diffusion_jax.evaluators.base import (
    MAX_VALUES,
    Evaluator,
    Record,
    check_held_out,
    sampling_settings,
)
from diffusion_jax.evaluators.feature_extractors import (
    FeatureExtractor,
    extract_features,
    open_feature_extractor,
)
from diffusion_jax.inference import Arrays
from diffusion_jax.methods import classifier
from diffusion_jax.methods.base import OTHER_METRIC, check_range
from diffusion_jax.metrics import frechet, modes, neighbours
from diffusion_jax.training.state import Variables

MAX_REAL = 20_000  # real images, drawn from both splits if there are more
MIN_SAMPLES = 6  # metrics use up to five nearest neighbours
NUM_BASELINES = 5  # random splits; the median is reported
CONFIDENT = 0.9


class Real(NamedTuple):
    """Features of real images in random order, at most MAX_REAL of both splits.

    Attributes:
      features: [N, F] by name of the feature set.
      baselines: Fréchet distance between real images, by name of the feature set.
      is_train: [N], whether an image is from the train split.
      settings: how the real images were chosen.
      details: metrics of the real images.
    """

    features: dict[str, np.ndarray]
    baselines: dict[str, float]
    is_train: np.ndarray
    settings: dict[str, Any]
    details: dict[str, Any]


def make_samples(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of samples against real images.

    A Fréchet distance is named after its features: "FD of pixels" in [0, 1], where
    images are small, and "FD of NAME", the features of the classifier in
    eval.classifier. Its baseline is the distance between two sets of real images. The
    evaluator yields one record for each combination of eval.sweep's values.

    Raises:
      FileNotFoundError: the data or the classifier are missing.
      ValueError: there are no features to compare, or an option is invalid.
    """
    num, field = config.sample.num_examples, method.field
    check_held_out(config)
    if num < MIN_SAMPLES:
        raise ValueError(
            f"eval.metric samples needs sample.num_examples of at least {MIN_SAMPLES}, "
            f"not {num}."
        )
    if field.kind != "image":
        raise ValueError(
            f"eval.metric 'samples' compares images, but {config.data.source} has "
            f"{field.kind}: {OTHER_METRIC}."
        )
    check_range(field, "eval.metric samples", "choose data with images")
    extractor = None
    if config.eval.classifier:
        extractor = open_feature_extractor(
            config.eval.classifier, config.data.source, field.shape
        )
    elif math.prod(field.shape) > MAX_VALUES:
        raise ValueError(
            f"Images of {math.prod(field.shape)} values are too large for FD of pixels "
            f"(at most {MAX_VALUES}), and eval.classifier is empty: set it to the "
            "folder of a trained classifier."
        )
    variants = list(_swept(config))
    runners = [task_runner.make(variant, method, "sample") for variant in variants]
    real = _real(config, method.data, extractor, num)

    def evaluate(variables: Variables) -> Iterator[Record]:
        for variant, runner in zip(variants, runners, strict=True):
            start = time.monotonic()
            drawn = runner.run(variables)
            metrics = _compare(drawn, runner.fields, method.data, real, extractor)
            settings = {
                "num_samples": num,
                **real.settings,
                **sampling_settings(variant),
            }
            seconds = round(time.monotonic() - start, 1)
            yield Record(metrics, settings, real.details | {"seconds": seconds})

    return evaluate


def _swept(config: ConfigDict) -> Iterator[ConfigDict]:
    """Yields the config with each combination of eval.sweep's values in group sample.

    A key of the sweep without values keeps the config's own.
    """
    sweep = {key: values for key, values in config.eval.sweep.items() if values}
    for values in itertools.product(*sweep.values()):
        variant = config.copy_and_resolve_references()
        variant.sample.update(dict(zip(sweep, values, strict=True)))
        yield variant


def _real(
    config: ConfigDict, name: str, extractor: FeatureExtractor | None, num: int
) -> Real:
    """Features of real images of both splits, and their baselines."""
    train, test = run_data.open_train(config), run_data.open_held_out(config)
    order = np.random.default_rng(0).permutation(len(train) + len(test))[:MAX_REAL]
    is_train = order < len(train)
    images = np.empty((len(order), *train.fields[name].shape), np.float32)
    images[is_train] = loader.to_batch(train, order[is_train])[name]
    held_out = loader.to_batch(test, order[~is_train] - len(train))
    images[~is_train] = held_out[name]
    features, seen = extract_features(images, extractor)
    settings: dict[str, Any] = {
        "num_real": len(images),
        "num_baseline": min(num, len(images) // 2),
        "splits": [config.data.train_split, config.eval.split],
    }
    details = {}
    if extractor:
        settings |= {"classifier": extractor.name, "classifier_id": extractor.id}
        vectors = features[extractor.name]
        seen = {name: x[~is_train] for name, x in seen.items()}
        found = _accuracies(seen, held_out, test.fields, extractor)
        confident = seen["probabilities"].max(axis=1) > CONFIDENT
        details = {f"accuracy_real{name}": value for name, value in found.items()}
        details |= {
            "confident_share_real": float(confident.mean()),
            "nearest_distance_real": neighbours.nearest_distance(
                vectors[~is_train], vectors[is_train]
            ),
        }
    baselines = {
        name: float(
            np.median(
                [frechet.real_baseline(x, seed, num) for seed in range(NUM_BASELINES)]
            )
        )
        for name, x in features.items()
    }
    return Real(features, baselines, is_train, settings, details)


def _accuracies(
    seen: Arrays,
    labels: Arrays,
    fields: Mapping[str, Field],
    extractor: FeatureExtractor,
) -> dict[str, float]:
    """See `accuracies`, of the labels that both the extractor and the data have."""
    known = [name for name in extractor.labels if name in labels]
    return accuracies(classifier.predictions(seen, known), labels, fields)


def _compare(
    samples: Arrays,
    fields: Mapping[str, Field],
    name: str,
    real: Real,
    extractor: FeatureExtractor | None,
) -> dict[str, Any]:
    """All metrics of samples; FD of the extractor's features comes first."""
    features, seen = extract_features(np.clip(samples[name], -1, 1), extractor)
    metrics: dict[str, Any] = {}
    for feature_set, vectors in real.features.items():
        distance = frechet.frechet_distance(features[feature_set], vectors)
        metrics[f"FD of {feature_set}"] = distance
        metrics[f"FD of {feature_set}, real"] = real.baselines[feature_set]
    if not extractor:
        return metrics
    vectors, probabilities = features[extractor.name], seen["probabilities"]
    others = real.features[extractor.name]
    predicted = probabilities.argmax(axis=1)
    counts = modes.histogram(predicted, extractor.num_classes)
    precision, recall = neighbours.precision_recall(others[: len(vectors)], vectors)
    density, coverage = neighbours.density_coverage(others[: len(vectors)], vectors)
    metrics |= {
        "confident_share": float(np.mean(probabilities.max(axis=1) > CONFIDENT)),
        "histogram": counts,
        "classes_covered": modes.classes_covered(counts),
        "num_classes": extractor.num_classes,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "nearest_distance": neighbours.nearest_distance(vectors, others[real.is_train]),
    }
    # Samples against the labels of other ones: what is right by chance.
    order = np.random.default_rng(0).permutation(len(probabilities))
    labels = {k: x for k, x in samples.items() if k in extractor.labels}
    shuffled = {k: x[order] for k, x in labels.items()}
    for ending, against in (("", labels), (", shuffled", shuffled)):
        found = _accuracies(seen, against, fields, extractor)
        metrics |= {f"conditional_accuracy{k}{ending}": x for k, x in found.items()}
    return metrics


def make_modes(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of mode coverage: how many modes of grid25 samples reach.

    Raises:
      ValueError: data.source is not grid25.
    """
    if config.data.source != "grid25":
        raise ValueError(
            "eval.metric 'modes' needs data.source grid25, whose modes are known, not "
            f"{config.data.source}: choose samples."
        )
    runner = task_runner.make(config, method, "sample")

    def evaluate(variables: Variables) -> Iterator[Record]:
        samples = runner.run(variables)[method.data]
        counts = modes.mode_count(samples, points.CENTRES, points.SIGMA)
        metrics = {
            "modes_missing": len(points.CENTRES) - counts.covered,
            "modes_covered": counts.covered,
            "num_modes": len(points.CENTRES),
            "modes_touched": counts.touched,
            "share_within_3_sigma": counts.share_within,
            "histogram": counts.histogram,
        }
        settings = {"num_samples": len(samples), **sampling_settings(config)}
        yield Record(metrics, settings)

    return evaluate

"""The evaluator of images that are generated for images: each sample has a target."""

import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import methods, run_data, task_runner
from diffusion_jax.data import loader
from diffusion_jax.data.base import COND_IMAGE
from diffusion_jax.evaluators.base import (
    Evaluator,
    Record,
    check_held_out,
    sampling_settings,
)
from diffusion_jax.evaluators.feature_extractors import (
    extract_features,
    open_feature_extractor,
)
from diffusion_jax.methods.base import as_image, check_range
from diffusion_jax.metrics import frechet
from diffusion_jax.metrics.images import absolute_error, psnr
from diffusion_jax.training.state import Variables


def make_paired(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of the task sample against the targets of eval.split.

    On the first sample.num_examples examples, at most the whole split, it computes

    * the Fréchet distances between samples and targets, as the metric samples has them;
      ", real" is the distance between the targets and as many training images, or all
      of them if there are fewer;
    * the mean absolute error in [0, 1] and the PSNR, each example with its target;
    * with a classifier, the share of samples that it assigns to the target's class;
      "accuracy, real" is that of the targets themselves.

    NAME ", condition" is the same for the condition, resized bicubically, where it has
    one channel or as many as the target. The score is the first distance, or the error
    of images that are too large for FD of pixels.

    Raises:
      FileNotFoundError: the data or the classifier are missing.
      ValueError: the model is not conditioned on images, or an option is invalid.
    """
    field = method.field
    inputs = methods.make_task(config, method, "sample").inputs
    if COND_IMAGE not in inputs:
        raise ValueError(
            "eval.metric 'paired' needs a model that is conditioned on images; choose "
            "another one, such as samples."
        )
    if config.sample.get("prompt"):
        raise ValueError(
            "eval.metric 'paired' compares samples with images of eval.split, which "
            "have their own captions: leave sample.prompt out."
        )
    check_held_out(config)
    check_range(field, "eval.metric paired", "choose data with images")
    held_out, train = run_data.open_held_out(config), run_data.open_train(config)
    num = min(config.sample.num_examples, len(held_out))
    if num < 2:
        raise ValueError(
            "eval.metric paired needs two examples or more: increase "
            "sample.num_examples, or choose another eval.split."
        )
    config = config.copy_and_resolve_references()
    config.sample.num_examples = num
    runner = task_runner.make(config, method, "sample")
    extractor = None
    if config.eval.classifier:
        extractor = open_feature_extractor(
            config.eval.classifier, config.data.source, field.shape
        )

    def evaluate(variables: Variables) -> Iterator[Record]:
        batch = loader.to_batch(held_out, np.arange(num))
        order = np.random.default_rng(0).permutation(len(train))[:num]
        others = loader.to_batch(train, order)[method.data]
        targets, label, condition = (
            batch.get(name) for name in (method.data, "label", COND_IMAGE)
        )
        if held_out.fields.get("label") and held_out.fields["label"].size == 1:
            label = None  # there are no classes
        features, seen = extract_features(targets, extractor)

        def compare(images: np.ndarray) -> dict[str, float]:
            found, predicted = extract_features(np.clip(images, -1, 1), extractor)
            return {
                **_distances(found, features),
                **_errors(images, targets),
                **_accuracy(predicted, label),
            }

        samples = compare(runner.run(variables)[method.data])
        real = _distances(extract_features(others, extractor)[0], features)
        controls = {"real": real | _accuracy(seen, label), "condition": {}}
        if condition.shape[-1] in (1, field.shape[-1]):
            resized = np.asarray(as_image(condition, field.shape))
            controls["condition"] = compare(resized)
        metrics = {}
        for name, value in samples.items():
            metrics[name] = value
            for control, values in controls.items():
                if name in values:
                    metrics[f"{name}, {control}"] = values[name]
        settings = {
            "split": config.eval.split,
            "num_examples": num,
            **sampling_settings(config),
        }
        if extractor:
            settings |= {"classifier": extractor.name, "classifier_id": extractor.id}
        yield Record(metrics, settings)

    return evaluate


def _distances(
    features: dict[str, np.ndarray], targets: dict[str, np.ndarray]
) -> dict[str, float]:
    """The Fréchet distance of each feature set, that of the classifier first."""
    return {
        f"FD of {name}": frechet.frechet_distance(features[name], vectors)
        for name, vectors in targets.items()
    }


def _errors(images: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The means over pairs of images in [-1, 1]."""
    pair = (np.clip(images, -1, 1) + 1) / 2, (targets + 1) / 2
    return {
        "absolute_error": float(absolute_error(*pair).mean()),
        "psnr": float(psnr(*pair).mean()),
    }


def _accuracy(
    seen: dict[str, np.ndarray], label: np.ndarray | None
) -> dict[str, float]:
    """The share of images of the right class, if there are classes to compare."""
    if label is None or not seen:
        return {}
    predicted = seen["probabilities"].argmax(axis=1)
    return {"accuracy": float(np.mean(predicted == label))}

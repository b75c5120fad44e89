"""Feature extractors: trained classifiers, applied to samples of other models."""

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion_jax import inference, methods, paths, run_config, runs
from diffusion_jax.data.base import ArraySource
from diffusion_jax.evaluators.base import MAX_VALUES
from diffusion_jax.inference import Arrays
from diffusion_jax.methods import classifier

BATCH_SIZE = 500
LOGGER = logging.getLogger(__name__)


class FeatureExtractor(NamedTuple):
    """A classifier of real images.

    Attributes:
      name: its config's name; Fréchet distances are named after it.
      extract: images f32[N, H, W, C] in [-1, 1] -> "features" f32[N, F] and
        "probabilities" f32[N, K]; `methods.classifier.predictions` reads all labels.
      num_classes: K.
      id: changes with the weights.
      labels: that it predicts; `label` comes first.
    """

    name: str
    extract: Callable[[np.ndarray], dict[str, np.ndarray]]
    num_classes: int
    id: str
    labels: tuple[str, ...] = ("label",)


def open_feature_extractor(
    workdir: str,
    source: str,
    shape: tuple[int, ...],
    key: str = "eval.classifier",
) -> FeatureExtractor:
    """Opens the run of a classifier.

    Args:
      workdir: the run's folder.
      source: data.source of the images to extract features from, for the message.
      shape: their shape, (H, W, C).
      key: the config key that names the workdir.

    Raises:
      FileNotFoundError: there is no such run.
      ValueError: the folder is a URL, or the run is not a classifier or was trained on
        another shape.
    """
    folder = paths.local(workdir)
    if not (folder / run_config.CONFIG).exists():
        raise FileNotFoundError(
            f"There is no classifier in {key} = {folder}. Train one first: "
            "python -m diffusion_jax.main --config=configs/NAME_classifier.py "
            f"--config.data.source={source} --workdir={workdir} (or correct the path, "
            f"or evaluate without a classifier: --config.{key}=)."
        )
    config = run_config.stored_config(folder)
    if config.method != "classifier":
        raise ValueError(
            f"The run in {key} = {workdir} is a {config.method}, not a classifier."
        )
    config = run_config.complete(config, classifier.defaults(), folder)
    run = runs.load(config, folder, "last")
    if run.method.field.shape != tuple(shape):
        raise ValueError(
            f"The classifier in {workdir} was trained on images of shape "
            f"{run.method.field.shape}, but these have shape {tuple(shape)}: set {key} "
            "to a classifier of images of this shape, or leave it empty: "
            f"--config.{key}=."
        )
    LOGGER.info("Features: %s, step %d.", workdir, run.step)
    name, task = run.method.data, methods.make_task(config, run.method, "classify")
    stream = inference.make_stream(task, BATCH_SIZE, 0, "Computing features")
    # ArraySource takes images as bytes, and these are floats in [-1, 1].
    field = run.method.field._replace(kind="signal")

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        source = ArraySource({name: images}, {name: field}, "samples")
        rows = stream(run.variables, source, len(images))
        return inference.collect(rows, *task.outputs)

    return FeatureExtractor(
        config.name,
        extract,
        config.model.num_classes,
        run.id,
        tuple(run.method.classes),
    )


def extract_features(
    images: np.ndarray, extractor: FeatureExtractor | None
) -> tuple[Arrays, Arrays]:
    """Returns features by name, [N, F], and the extractor's other outputs.

    Pixels in [0, 1] are the features "pixels" of small images.

    Args:
      images: f32[N, H, W, C] in [-1, 1].
      extractor: None for the pixels only.
    """
    features, others = {}, {}
    if extractor:
        others = extractor.extract(images)
        features[extractor.name] = others.pop("features")
    if math.prod(images.shape[1:]) <= MAX_VALUES:
        features["pixels"] = (images.reshape(len(images), -1) + 1) / 2
    return features, others

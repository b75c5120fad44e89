"""A trained classifier, asked what it makes of pictures."""

import logging
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion_jax import methods, runs

BATCH_SIZE = 500


class FeatureExtractor(NamedTuple):
    """A classifier of real pictures.

    Attributes:
      name: of its config: its features are called after it.
      look: pictures f32[N,H,W,C] in [-1, 1] -> ("features" f32[N, F], "probabilities"
        f32[N, K]).
      num_classes: K.
    """

    name: str
    look: Callable[[np.ndarray], dict[str, np.ndarray]]
    num_classes: int


def open_feature_extractor(
    workdir: str,
    source: str,
    image_shape: tuple[int, int, int],
    key: str = "eval.classifier",
) -> FeatureExtractor:
    """Opens the run of a classifier.

    Args:
      workdir: of its training.
      source: of the pictures that it will be shown, as in data.source.
      image_shape: of the pictures that it will be shown.
      key: of the config, that names the workdir.

    Raises:
      FileNotFoundError: nobody has trained it.
      ValueError: it is no classifier, or of pictures of another shape.
    """
    folder = pathlib.Path(workdir)
    if not (folder / runs.CONFIG).exists():
        # The classifier of those pictures, or of their negatives.
        name = folder.name.removeprefix("inverted_")
        raise FileNotFoundError(
            f"There is no classifier in {key} = {workdir}. Train it first: "
            f"python -m diffusion_jax.main --config=configs/{name}.py "
            f"--config.data.source={source} --workdir={workdir} (or correct the path, "
            f"or measure without one: --config.{key}=)."
        )
    config = runs.stored_config(folder)
    if config.method != "classifier":
        raise ValueError(
            f"The run in {key} = {workdir} is a {config.method}, and no classifier."
        )
    method, state = runs.load(config, folder, "last")
    if method.image_shape != image_shape:
        raise ValueError(
            f"The classifier in {workdir} looks at pictures of the shape "
            f"{method.image_shape}, and these have {image_shape}: set {key} to the "
            f"folder of one trained on these, or to nothing: --config.{key}=."
        )
    logging.getLogger(__name__).info("Judged by %s, step %d.", workdir, state.step)
    run = methods.make_evaluate(method, seed=0)

    def look(images: np.ndarray) -> dict[str, np.ndarray]:
        index = np.arange(-(-len(images) // BATCH_SIZE) * BATCH_SIZE)
        chunks = np.minimum(index, len(images) - 1).reshape(-1, BATCH_SIZE)
        seen = [
            run(state, {"index": chunk.astype(np.int32), "image": images[chunk]})
            for chunk in chunks
        ]
        return {
            name: np.concatenate([x[name] for x in seen])[: len(images)]
            for name in seen[0]
        }

    return FeatureExtractor(config.name, look, config.model.num_classes)

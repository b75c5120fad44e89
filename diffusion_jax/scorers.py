"""Scorers: trained contrastive models, applied to samples of other models."""

import logging
from typing import NamedTuple

import numpy as np

from diffusion_jax import inference, methods, paths, run_config, runs
from diffusion_jax.data.base import ArraySource, Field, shape_text
from diffusion_jax.methods import contrastive
from diffusion_jax.methods.base import NoOptions
from diffusion_jax.methods.contrastive import Contrastive, make_embed
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training.state import Variables

BATCH_SIZE = 500
LOGGER = logging.getLogger(__name__)


class Scorer(NamedTuple):
    """A contrastive model, applied to the images and captions of another model.

    Attributes:
      name: its config's name.
      method: its functions.
      variables: its parameters.
      ids: i32[V], its id of each id of the other model's captions.
      id: changes with the weights.
    """

    name: str
    method: Contrastive
    variables: Variables
    ids: np.ndarray
    id: str


def open_scorer(
    workdir: str, source: str, image: Field, caption: Field, key: str
) -> Scorer:
    """Opens the run of a contrastive model.

    Args:
      workdir: the run's folder.
      source: data.source of the images to be scored, for messages.
      image: their field.
      caption: the field of their captions.
      key: the config key that names the workdir.

    Raises:
      FileNotFoundError: there is no such run.
      ValueError: the folder is a URL, or the run is of another family, of images of
        another shape, or does not know all words of the captions.
    """
    folder = paths.local(workdir)
    if not (folder / run_config.CONFIG).exists():
        raise FileNotFoundError(
            f"There is no scorer in {key} = {folder}. Train one first: "
            "python -m diffusion_jax.main --config=configs/NAME_contrastive.py "
            f"--config.data.source={source} --workdir={workdir} (or correct the path)."
        )
    config = run_config.stored_config(folder)
    if config.method != "contrastive":
        raise ValueError(
            f"The run in {key} = {workdir} is a {config.method}, not a contrastive "
            "model: correct the path."
        )
    config = run_config.complete(config, contrastive.defaults(), folder)
    fields = run_config.stored_fields(config, folder)
    trained = methods.make(config, fields).field.shape
    if trained != image.shape:
        raise ValueError(
            f"The scorer in {workdir} was trained on images of {shape_text(trained)}, "
            f"but these are {shape_text(image.shape)}: set {key} to a scorer of images "
            "of this shape."
        )
    words, known = caption.vocabulary.tokens, fields["caption"].vocabulary
    unknown = sorted(set(words) - set(known.tokens))
    if unknown:
        raise ValueError(
            f"The scorer in {workdir} does not know {', '.join(map(repr, unknown[:5]))}"
            f", of the captions of {source}: set {key} to a scorer that was trained on "
            "these captions."
        )
    ids = np.append([PAD, END], known.encode(" ".join(words))).astype(np.int32)
    run = runs.load(config, folder, "last")
    LOGGER.info("Scorer: %s, step %d.", workdir, run.step)
    return Scorer(config.name, run.method, run.variables, ids, run.id)


def embed(
    scorer: Scorer, images: np.ndarray, captions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds images and captions.

    Args:
      scorer: the contrastive model.
      images: f32[N, H, W, C] in [-1, 1].
      captions: i32[N, L], with the ids of the other model.

    Returns:
      f32[N, E] of the images and of the captions.
    """
    method = scorer.method
    task = make_embed(method, NoOptions())
    arrays = {method.data: images, "caption": scorer.ids[captions]}
    fields = {
        # ArraySource takes images as bytes, and these are floats in [-1, 1].
        method.data: method.field._replace(kind="signal"),
        "caption": method.caption._replace(shape=captions.shape[1:]),
    }
    stream = inference.make_stream(task, min(BATCH_SIZE, len(images)), 0, "Scoring")
    rows = stream(scorer.variables, ArraySource(arrays, fields), len(images))
    found = inference.collect(rows, "image_embedding", "text_embedding")
    return found["image_embedding"], found["text_embedding"]

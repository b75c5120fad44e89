"""What a run shows: samples, or a view of the data; drawn, and written."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.data import sources, transforms
from diffusion_jax.outputs import images
from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)

GRID_IMAGES = 400  # as a manifold has; further ones are in the arrays alone
SAMPLES = "samples"
NUM_LISTS = 3  # of an arithmetic: a - b + c
Arrays = dict[str, np.ndarray]


def make_pictures(
    config: ml_collections.ConfigDict, method: methods.Method
) -> Callable[[TrainState], Arrays]:
    """Makes a function that draws what sample.view names.

    Returns:
      settled state -> "images" f32[N,H,W,C] in [-1, 1], and where there are any
      "labels" i32[N] and "frames" f32[N,k,H,W,C] of the way; or of a view "images"
      f32[N,k,H,W,C], a row an example of eval.split.

    Raises:
      FileNotFoundError: a view's data are not there.
      ValueError: they are not what the config says.
    """
    options = config.sample
    if "view" not in options:
        raise ValueError(f"A {config.method} draws no pictures: use --mode=evaluate.")
    if options.view != SAMPLES:
        return _make_view(config, method)
    draw = methods.make_draw(method, options.batch_size)
    names = {"image": "images", "label": "labels", "frames": "frames"}

    def samples(state: TrainState) -> Arrays:
        drawn = draw(state, options.num_images, options.seed)
        found = [name for name in names if name in drawn and drawn[name].size]
        return {names[name]: drawn[name] for name in found}

    return samples


def _make_view(
    config: ml_collections.ConfigDict, method: methods.Method
) -> Callable[[TrainState], Arrays]:
    """Rows of the first examples of eval.split.

    Their partners are the next ones after these, in a small split beginning anew, or
    each the next one where those would be themselves.
    """
    options, source = config.sample, runs.open_held_out(config)
    run = methods.make_measure(method.views[options.view], options.seed)
    number, size = options.num_images, options.batch_size
    away = number if number % len(source) else 1
    index = np.arange(-(-number // size) * size, dtype=np.int32)
    lists = _concepts(config, source) if options.view == "arithmetic" else {}

    def examples(index: np.ndarray) -> Arrays:
        batch = _examples(source, index)
        if "image" in batch:
            partner = _examples(source, index + away)
            batch |= {f"partner_{name}": array for name, array in partner.items()}
        return batch | {
            name: np.broadcast_to(array, (size, *array.shape))
            for name, array in lists.items()
        }

    def rows(state: TrainState) -> Arrays:
        chunks = index.reshape(-1, size)
        drawn = [run(state, examples(chunk)) for chunk in chunks]
        return {"images": np.concatenate(drawn)[:number]}

    return rows


def _examples(source: sources.Source | sources.Unpaired, index: np.ndarray) -> Arrays:
    """A batch of the examples of those numbers, beginning anew after the last."""
    batch = {"index": index}
    for suffix, one in sources.parts(source).items():
        read = sources.read(one, index % len(one))
        batch[f"image{suffix}"] = transforms.to_input(read["image"])
        batch[f"label{suffix}"] = read["label"]
    return batch


def _concepts(config: ml_collections.ConfigDict, source: sources.Source) -> Arrays:
    """Three lists of examples for an arithmetic: index [3, m] and image beside it."""
    concepts = config.sample.concepts
    lengths = {len(numbers) for numbers in concepts}
    known = range(len(source))
    if (
        len(concepts) != NUM_LISTS
        or len(lengths) != 1
        or lengths == {0}
        or not all(number in known for numbers in concepts for number in numbers)
    ):
        raise ValueError(
            "sample.concepts are three lists of as many numbers of pictures, from 0 to "
            f"{len(source) - 1}, for a - b + c; they are {concepts}."
        )
    lists = np.asarray(concepts, np.int32)
    found = _examples(source, lists.reshape(-1))
    image = found["image"].reshape(*lists.shape, *found["image"].shape[1:])
    return {"concept_index": lists, "concept_image": image}


def save_picture(path: pathlib.Path, images: np.ndarray) -> None:
    """Writes f32[N,H,W,C], or rows of them, as one PNG; points of the plane as dots.

    A suffix is added to the path.
    """
    if parallel.process_index() != 0:
        return
    path = path.with_suffix(".png")
    columns = images.shape[1] if images.ndim == 5 else None
    shown = images.reshape(-1, *images.shape[-3:])
    if is_points(images):
        images.save_points(path, shown.reshape(-1, 2))
    else:
        limit = max(1, GRID_IMAGES // (columns or 1)) * (columns or 1)
        images.save_grid(path, transforms.to_uint8(shown[:limit]), columns)
    LOGGER.info("Pictures: %s", path)


def save_arrays(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes images u8 (points as they are) and labels as an npz file."""
    if parallel.process_index() != 0:
        return
    path = path.with_suffix(".npz")
    images = arrays["images"]
    images = images if is_points(images) else transforms.to_uint8(images)
    labels = {"labels": arrays["labels"]} if "labels" in arrays else {}
    np.savez_compressed(path, images=images, **labels)
    LOGGER.info("Arrays: %s", path)


def save_animation(path: pathlib.Path, frames: np.ndarray) -> None:
    """Writes f32[N,k,H,W,C] as an animation of k grids of N pictures."""
    if parallel.process_index() != 0:
        return
    path = path.with_suffix(".gif")
    if is_points(frames):
        LOGGER.warning(
            "sample.animation: there is no animation of points of the plane."
        )
        return
    images.save_animation(path, transforms.to_uint8(frames[:GRID_IMAGES]))
    LOGGER.info("Film: %s", path)


def is_points(images: np.ndarray) -> bool:
    """Whether these are points of the plane: "pictures" of one pixel of two values."""
    return images.shape[-3:] == (1, 1, 2)

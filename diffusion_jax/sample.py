"""Draws samples from a trained run, and writes pictures and arrays."""

import logging
import pathlib

import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.data import sources, transforms
from diffusion_jax.evaluation import grids
from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)

GRID_IMAGES = 256  # further ones are in the arrays, not in the picture


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes what sample.view names: samples.npz and samples.png, or those of a view.

    With samples, on request, a film: samples.gif shows sample.num_frames predictions of
    x_0 on the way. Arrays hold images u8[N,H,W,C], with labels i32[N] where there are
    classes, or rows u8[N,k,H,W,C] of a view.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir.
      ValueError: the config does not fit the checkpoint, or the view is unknown.
    """
    options = config.sample
    method, state = runs.load(config, workdir, options.checkpoint)
    if options.view in method.views:
        rows = draw_view(config, method, state)
        save(workdir, options.view, transforms.to_uint8(rows))
        return
    draw = methods.make_draw(method, options.batch_size)
    drawn = draw(state, options.num_images, options.seed)
    labels = {"labels": drawn["label"]} if "label" in drawn else {}
    save(workdir, "samples", transforms.to_uint8(drawn["image"]), **labels)
    if options.num_frames and parallel.process_index() == 0:
        frames = transforms.to_uint8(drawn["frames"][:GRID_IMAGES])
        grids.save_film(workdir / "samples.gif", frames)
        LOGGER.info("Film: %s", workdir / "samples.gif")


def draw_view(
    config: ml_collections.ConfigDict, method: methods.Method, state: TrainState
) -> np.ndarray:
    """Returns rows f32[n,k,H,W,C] of a view of the first n examples of eval.split.

    Their partners are the next n, in a small split beginning anew, or each the next one
    where those would be themselves.
    """
    options, source = config.sample, runs.open_source(config, config.eval.split)
    run = methods.make_measure(method.views[options.view], options.seed)
    number, size = options.num_images, options.batch_size
    away = number if number % len(source) else 1

    def rows_of(index: np.ndarray) -> np.ndarray:
        one = sources.read(source, index % len(source))
        other = sources.read(source, (index + away) % len(source))
        batch = {
            "index": index,
            "image": transforms.to_float(one["image"]),
            "label": one["label"],
            "partner_image": transforms.to_float(other["image"]),
            "partner_label": other["label"],
        }
        return run(state, batch)

    index = np.arange(-(-number // size) * size, dtype=np.int32)
    return np.concatenate([rows_of(chunk) for chunk in index.reshape(-1, size)])[
        :number
    ]


def save(
    workdir: pathlib.Path, name: str, images: np.ndarray, **others: np.ndarray
) -> None:
    """Writes images u8[N,H,W,C], or rows of them, as name.npz (with other arrays beside
    them) and name.png."""
    if parallel.process_index() != 0:
        return
    np.savez_compressed(workdir / f"{name}.npz", images=images, **others)
    columns = images.shape[1] if images.ndim == 5 else None
    shown = images[: max(1, GRID_IMAGES // (columns or 1))]
    shown = shown.reshape(-1, *images.shape[-3:])
    grids.save_grid(workdir / f"{name}.png", shown, columns)
    LOGGER.info("Arrays: %s", workdir / f"{name}.npz")
    LOGGER.info("Pictures: %s", workdir / f"{name}.png")

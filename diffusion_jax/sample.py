"""Draws samples from a trained run, and writes pictures and arrays."""

import logging
import pathlib

import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.data import transforms
from diffusion_jax.evaluation import grids
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)

GRID_IMAGES = 256  # further ones are in the arrays, not in the picture


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes samples.npz (images u8[N,H,W,C]), samples.png, and a film on request.

    The film, samples.gif, shows sample.num_frames predictions of x_0 on the way.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir.
      ValueError: the config does not fit the checkpoint.
    """
    options = config.sample
    method, state = runs.load(config, workdir, options.checkpoint)
    draw = methods.make_draw(method, options.batch_size)
    drawn = draw(state, options.num_images, options.seed)
    if parallel.process_index() != 0:
        return
    images = transforms.to_uint8(drawn["image"])
    np.savez_compressed(workdir / "samples.npz", images=images)
    grids.save_grid(workdir / "samples.png", images[:GRID_IMAGES])
    LOGGER.info("Arrays: %s", workdir / "samples.npz")
    LOGGER.info("Pictures: %s", workdir / "samples.png")
    if options.num_frames:
        frames = transforms.to_uint8(drawn["frames"][:GRID_IMAGES])
        grids.save_film(workdir / "samples.gif", frames)
        LOGGER.info("Film: %s", workdir / "samples.gif")

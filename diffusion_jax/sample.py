"""Draws samples, or a view, from a trained run, and writes pictures and arrays."""

import logging
import pathlib

import ml_collections

from diffusion_jax import runs
from diffusion_jax.outputs import writers

LOGGER = logging.getLogger(__name__)


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes what sample.view names: samples.npz and samples.png, or those of a view.

    Arrays hold images u8[N,H,W,C], with labels i32[N] where there are classes, or rows
    u8[N,k,H,W,C] of a view. With sample.animation, an animation beside them: of a view
    column by column, of diffusion the predictions of x_0 on the way, sample.num_frames
    of them.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir.
      ValueError: the config does not fit the checkpoint, or the view is unknown.
    """
    options = config.sample
    method, state = runs.load(config, workdir, options.checkpoint)
    arrays = writers.make_pictures(config, method)(state)
    path = workdir / options.view
    writers.save_arrays(path, arrays)
    writers.save_picture(path, arrays["images"])
    if "frames" in arrays:
        writers.save_animation(path, arrays["frames"])
    elif options.animation and arrays["images"].ndim == 5:
        writers.save_animation(path, arrays["images"])
    elif options.animation:
        LOGGER.warning("sample.animation shows a view, and single samples do not move.")

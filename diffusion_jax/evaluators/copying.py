"""The evaluator of copying: whether samples are training images, slightly changed."""

import logging
import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import methods, paths, run_config, run_data, task_runner
from diffusion_jax.data import loader, transforms
from diffusion_jax.data.base import Source
from diffusion_jax.evaluators.base import (
    Evaluator,
    Record,
    check_held_out,
    sampling_settings,
)
from diffusion_jax.methods.base import OTHER_METRIC
from diffusion_jax.metrics import neighbours
from diffusion_jax.outputs import images
from diffusion_jax.training import parallel
from diffusion_jax.training.state import Variables

LOGGER = logging.getLogger(__name__)

MIN_SIDE = 32  # pixels; images are averaged down to less than twice this
MAX_REAL = 10_000  # training images, and as many held-out ones
READ_TOGETHER = 256  # images
BY_CHANCE = 0.05  # share of held-out images that count as near to a training image
SUSPICIOUS = 0.25  # a larger share of samples than this is warned about
MIN_HELD_OUT = 20  # 1 / BY_CHANCE
FAR = 1.2  # times the distance of held-out images: a rule of thumb
NUM_SHOWN = 8  # pairs in the picture


def make_copying(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of how near samples are to training images.

    copied_share is the share of samples that are nearer to a training image than all
    but 5 % of the held-out images are; copied_share_real is that of held-out images,
    about 0.05. nearest_distance is the median distance of samples to their nearest
    training image, nearest_distance_real that of held-out images. Distances are
    Euclidean, of pixels in [0, 1] after averaging down to 32 to 63 pixels; mirrored
    training images count too if the data are flipped. Blurred samples also are near to
    everything: WORKDIR/nearest.png shows the nearest ones, with their training images.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: these are not images, or eval.split is not held out.
    """
    if method.field.kind != "image":
        raise ValueError(
            f"eval.metric 'copying' compares images, but {config.data.source} has "
            f"{method.field.kind}: {OTHER_METRIC}."
        )
    check_held_out(config)
    train, held_out = run_data.open_train(config), run_data.open_held_out(config)
    classes = run_config.class_names(config, train.fields)
    runner = task_runner.make(config, method, "sample", class_names=classes)
    name = method.data
    order, chosen = (
        np.random.default_rng(0).permutation(len(x))[:MAX_REAL]
        for x in (train, held_out)
    )

    def evaluate(variables: Variables) -> Iterator[Record]:
        known = _small_of(train, name, order)
        if config.data.flip:
            known = np.concatenate([known, known[:, :, ::-1]])
        known = known.reshape(len(known), -1)
        real = _small_of(held_out, name, chosen)
        baseline, _ = neighbours.nearest(real.reshape(len(real), -1), known)
        drawn = runner.run(variables)[name]
        small = _small(drawn)
        distances, position = neighbours.nearest(small.reshape(len(small), -1), known)
        distance, distance_real = np.median(distances), np.median(baseline)
        near = np.quantile(baseline, BY_CHANCE)
        share = float(np.mean(distances < near))
        shown = np.argsort(distances)[:NUM_SHOWN]
        originals = loader.to_batch(train, order[position[shown] % len(order)])[name]
        path = workdir / "nearest.png"
        if parallel.process_index() == 0:
            pairs = np.stack([np.clip(drawn[shown], -1, 1), originals], axis=1)
            pairs = transforms.to_uint8(pairs.reshape(-1, *pairs.shape[2:]))
            with paths.writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                images.save_grid(path, pairs, 2, ("sample", "nearest"))
        _explain(share, distance, distance_real, len(drawn), len(real), path)
        metrics = {
            "copied_share": share,
            "copied_share_real": float(np.mean(baseline < near)),
            "nearest_distance": float(distance),
            "nearest_distance_real": float(distance_real),
        }
        settings = {
            "num_samples": len(drawn),
            "num_train": len(order),
            "num_held_out": len(real),
            "splits": [config.data.train_split, config.eval.split],
            **sampling_settings(config),
        }
        yield Record(metrics, settings)

    return evaluate


def _explain(
    share: float,
    distance: float,
    distance_real: float,
    num_samples: int,
    num_real: int,
    path: pathlib.Path,
) -> None:
    """Logs what the numbers mean, with a warning where they are bad or uncertain.

    Args:
      share: copied_share.
      distance: nearest_distance.
      distance_real: nearest_distance_real.
      num_samples: how many samples there are.
      num_real: how many held-out images there are.
      path: of the picture of the nearest samples.
    """
    LOGGER.log(
        logging.WARNING if share > SUSPICIOUS else logging.INFO,
        "%.0f %% of %d samples are nearer to a training picture than nearly all "
        "held-out pictures are (without copying, about 5 %%). %s shows the nearest.",
        100 * share,
        num_samples,
        path,
    )
    if share > SUSPICIOUS:
        LOGGER.warning("If they are copies, use more pictures or fewer steps.")
    elif distance > FAR * distance_real > 0:
        LOGGER.warning(
            "The samples are far from all training pictures: %.1f times as far as "
            "held-out pictures are. A low copied_share then says little.",
            distance / distance_real,
        )
    elif distance > distance_real:
        LOGGER.info("Noise copies nothing either: look at the samples.")
    if num_real < MIN_HELD_OUT:
        LOGGER.warning(
            "There are only %d held-out pictures, so that copied_share is very "
            "uncertain: look at %s, or set a larger data.held_out in a new run.",
            num_real,
            path,
        )


def _small_of(source: Source, name: str, index: np.ndarray) -> np.ndarray:
    """Reads images and averages them down, see `_small`."""
    parts = range(0, len(index), READ_TOGETHER)
    batches = (loader.to_batch(source, index[i : i + READ_TOGETHER]) for i in parts)
    return np.concatenate([_small(batch[name]) for batch in batches])


def _small(x: np.ndarray) -> np.ndarray:
    """Averages images over squares, [N, H, W, C] in [-1, 1] to [N, h, w, C] in [0, 1].

    A rest of H or W is cut off.
    """
    num, height, width, channels = x.shape
    side = max(1, min(height, width) // MIN_SIDE)
    h, w = height // side, width // side
    x = x[:, : h * side, : w * side].reshape(num, h, side, w, side, channels)
    return (np.clip(x.mean(axis=(2, 4)), -1, 1) + 1) / 2

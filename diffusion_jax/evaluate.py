"""Measures a trained run, and appends one JSON line."""

import datetime
import functools
import json
import logging
import pathlib

import jax
import ml_collections
import numpy as np

from diffusion_jax import methods, runs
from diffusion_jax.data import sources, transforms
from diffusion_jax.data.loader import Loader
from diffusion_jax.evaluation import classifier, frechet, likelihood
from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)


def evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Appends a line to evaluations.jsonl and prints it.

    The line holds the measures of eval.measure, and what they depend on.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir, or no data.
      ValueError: the config does not fit the checkpoint, or a name is unknown.
    """
    name = config.eval.measure
    if name not in MEASURES:
        raise ValueError(
            f"Unknown eval.measure {name!r}. Known ones: {', '.join(MEASURES)}."
        )
    method, state = runs.load(config, workdir, config.eval.checkpoint)
    record = {
        "measure": name,
        "config": config.name,
        "step": int(state.step),
        "data": config.data.source,
        "parameters": "ema",
        **MEASURES[name](config, method, state),
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }
    line = json.dumps(record)
    if parallel.process_index() == 0:
        with (workdir / "evaluations.jsonl").open("a") as file:
            file.write(line + "\n")
        LOGGER.info("Appended to %s.", workdir / "evaluations.jsonl")
        print(line)


def measure_bound(
    config: ml_collections.ConfigDict, method: methods.Method, state: TrainState
) -> dict:
    """Bits/dim of eval.split, with its three parts."""
    loader = Loader(
        runs.open_source(config, config.eval.split), config.eval.batch_size, 0
    )
    run = methods.make_evaluate(method, config.eval.seed)
    measured = likelihood.bits_per_dim(functools.partial(run, state), loader.epoch())
    return {
        "split": config.eval.split,
        **measured,
        "num_terms": config.eval.num_terms,
        "num_timesteps": config.diffusion.num_timesteps,
        "schedule": config.diffusion.schedule,
        "variance": config.diffusion.variance,
        "clipped": True,
        "seed": config.eval.seed,
    }


def measure_samples(
    config: ml_collections.ConfigDict, method: methods.Method, state: TrainState
) -> dict:
    """Samples beside real pictures: distance, confidence of a classifier, histogram.

    The features are the pixels in [0, 1]; the classifier is trained on the train split,
    and its share on real pictures is that of the test split.
    """
    options, data = config.sample, config.data
    if config.eval.split == data.train_split:
        raise ValueError(
            f"eval.split and data.train_split are both {data.train_split!r}: real "
            "pictures have to be held out for this measure."
        )
    train, train_labels = read_all(runs.open_source(config, data.train_split))
    test, _ = read_all(runs.open_source(config, config.eval.split))
    real = np.concatenate([train, test])
    judge = classifier.train_classifier(train, train_labels)
    draw = methods.make_draw(method, options.batch_size)
    drawn = draw(state, options.num_images, options.seed)
    samples = transforms.to_uint8(drawn["image"]) / 255.0
    share, histogram = classifier.confident_share(judge, samples)
    floors = [frechet.floor(flat(real), seed) for seed in range(5)]
    return {
        "num_samples": len(samples),
        "num_real": len(real),
        "frechet_pixels": frechet.frechet_distance(flat(samples), flat(real)),
        "frechet_pixels_floor": float(np.median(floors)),
        "confident_share": share,
        "confident_share_real": classifier.confident_share(judge, test)[0],
        "histogram": histogram,
        **{
            name: options[name]
            for name in ("sampler", "num_steps", "spacing", "eta", "clip", "seed")
        },
        "splits": [data.train_split, config.eval.split],
        "schedule": config.diffusion.schedule,
        "num_timesteps": config.diffusion.num_timesteps,
        "variance": config.diffusion.variance,
    }


def read_all(source: sources.Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a source, f64[N,H,W,C] in [0, 1], and its labels i32[N]."""
    batch = sources.read(source, np.arange(len(source)))
    return batch["image"] / 255.0, batch["label"]


def flat(images: np.ndarray) -> np.ndarray:
    """Returns [N, ...] as vectors [N, F]."""
    return images.reshape(len(images), -1)


MEASURES = {"bound": measure_bound, "samples": measure_samples}

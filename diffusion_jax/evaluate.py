"""Measures a trained run, and appends one JSON line."""

import datetime
import functools
import itertools
import json
import logging
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from diffusion_jax import likelihoods, methods, runs
from diffusion_jax.data import sources, transforms
from diffusion_jax.data.loader import Loader
from diffusion_jax.evaluation import classifier, frechet, likelihood
from diffusion_jax.training import parallel
from diffusion_jax.training.state import TrainState

LOGGER = logging.getLogger(__name__)


def evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Appends lines to evaluations.jsonl and prints them.

    A line holds the measures of eval.measure, and what they depend on.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir, or no data.
      ValueError: the config does not fit the checkpoint, or a name is unknown.
    """
    name = config.eval.measure
    if name not in MEASURES:
        raise ValueError(
            f"Unknown eval.measure {name!r}. Known ones: {', '.join(MEASURES)}."
        )
    if name != "samples" and any(config.eval.sweep.values()):
        raise ValueError(
            f"eval.sweep goes through ways of drawing, and eval.measure {name!r} draws "
            "nothing: set eval.measure to samples, or leave the sweep empty."
        )
    method, state = runs.load(config, workdir, config.eval.checkpoint)
    for measured in MEASURES[name](config, method, state, workdir):
        record = {
            "measure": name,
            "config": config.name,
            "step": int(state.step),
            "data": config.data.source,
            "parameters": "ema",
            **measured,
            "jax": jax.__version__,
            "date": datetime.date.today().isoformat(),
        }
        line = json.dumps(record)
        if parallel.process_index() == 0:
            with (workdir / "evaluations.jsonl").open("a") as file:
                file.write(line + "\n")
            LOGGER.info("Appended to %s.", workdir / "evaluations.jsonl")
            print(line, flush=True)  # last, for whoever reads the output


def measure_bound(
    config: ml_collections.ConfigDict,
    method: methods.Method,
    state: TrainState,
    workdir: pathlib.Path,
) -> Iterator[dict]:
    """Bits/dim of eval.split, with its three parts."""
    loader = Loader(
        runs.open_source(config, config.eval.split), config.eval.batch_size, 0
    )
    run = methods.make_evaluate(method, config.eval.seed)
    measured = likelihood.bits_per_dim(functools.partial(run, state), loader.epoch())
    yield {
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
    config: ml_collections.ConfigDict,
    method: methods.Method,
    state: TrainState,
    workdir: pathlib.Path,
) -> Iterator[dict]:
    """Samples beside real pictures: distance, confidence of a classifier, histogram.

    One record for each combination of eval.sweep's values. The features are the pixels
    in [0, 1]; the classifier is trained on the train split, and its share on real
    pictures is that of the test split.
    """
    data, num = config.data, config.sample.num_images
    num_pixels = data.image_size**2 * data.num_channels
    if config.eval.split == data.train_split:
        raise ValueError(
            f"eval.split and data.train_split are both {data.train_split!r}: real "
            "pictures have to be held out for this measure."
        )
    if num < 2 or num_pixels > MOST_PIXELS:
        raise ValueError(
            "The distance of pixels is for at least 2 samples (sample.num_images) of "
            f"at most {MOST_PIXELS} values each, not for {num} of {num_pixels}."
        )
    variants = [(c, methods.make(c)) for c in swept(config)]  # refused before the work
    train, train_labels = read_all(runs.open_source(config, data.train_split))
    test, _ = read_all(runs.open_source(config, config.eval.split))
    real = flat(np.concatenate([train, test]))
    judge = classifier.train_classifier(train, train_labels)
    of_real = {
        "num_real": len(real),
        "frechet_pixels_floor": float(
            np.median([frechet.floor(real, seed, num) for seed in range(5)])
        ),
        "confident_share_real": classifier.confident_share(judge, test)[0],
        "splits": [data.train_split, config.eval.split],
    }
    for variant, method in variants:
        start = time.monotonic()
        draw = methods.make_draw(method, variant.sample.batch_size)
        drawn = draw(state, num, variant.sample.seed)
        yield {
            "num_samples": num,
            **compare(drawn, real, judge),
            **of_real,
            **{name: variant.sample[name] for name in OF_SAMPLES},
            **{name: variant.diffusion[name] for name in OF_CHAIN},
            "seconds": round(time.monotonic() - start, 1),
        }


def compare(drawn: dict[str, np.ndarray], real: np.ndarray, judge: Any) -> dict:
    """Measures samples beside real pixels f32[N, F], with a classifier's opinion."""
    samples = transforms.to_uint8(drawn["image"]) / np.float32(255)
    share, histogram = classifier.confident_share(judge, samples)
    found = {
        "frechet_pixels": frechet.frechet_distance(flat(samples), real),
        "confident_share": share,
        "histogram": histogram,
    }
    if "label" in drawn:
        found["named_as_asked"] = classifier.named_as_asked(
            judge, samples, drawn["label"]
        )
    return found


def swept(
    config: ml_collections.ConfigDict,
) -> Iterator[ml_collections.ConfigDict]:
    """Yields the config with each combination of eval.sweep's values in its sample.

    A key of the sweep without values keeps that of the config.
    """
    sweep = {key: values for key, values in config.eval.sweep.items() if values}
    for values in itertools.product(*sweep.values()):
        variant = config.copy_and_resolve_references()
        variant.sample.update(dict(zip(sweep, values, strict=True)))
        yield variant


def read_all(source: sources.Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a source, f32[N,H,W,C] in [0, 1], and its labels i32[N]."""
    batch = sources.read(source, np.arange(len(source)))
    return batch["image"] / np.float32(255), batch["label"]


def flat(images: np.ndarray) -> np.ndarray:
    """Returns [N, ...] as vectors [N, F]."""
    return images.reshape(len(images), -1)


OF_SAMPLES = (
    "sampler",
    "num_steps",
    "spacing",
    "eta",
    "churn",
    "clip",
    "guidance_scale",
    "guidance_interval",
    "label",
    "seed",
)
OF_CHAIN = ("schedule", "zero_snr", "num_timesteps", "variance")
MOST_PIXELS = 4096  # the distance takes roots of matrices of that side
MEASURES = {
    "bound": measure_bound,
    "rate_distortion": likelihoods.measure_rate_distortion,
    "ode_likelihood": likelihoods.measure_ode_likelihood,
    "samples": measure_samples,
}

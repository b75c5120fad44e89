"""Retrieval of captions: of a contrastive model, and of samples by such a model."""

import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data, scorers, task_runner
from diffusion_jax.data import loader
from diffusion_jax.evaluators.base import (
    Evaluator,
    Record,
    check_held_out,
    over_held_out,
    sampling_settings,
)
from diffusion_jax.metrics import retrieval
from diffusion_jax.training.state import Variables

MAX_CAPTIONS = 100  # among which the right one has to be found
NUM_GROUPS = 100  # random ones, over which the recall is averaged


def make_retrieval(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of how often the right caption is found among others.

    Of a contrastive model it takes the pictures and captions of eval.split. Of a model
    that draws captions it takes one sample for each of the first sample.num_examples
    captions of eval.split, and the contrastive model in eval.scorer finds the captions,
    both of the samples and of the real pictures. A choice is one among the different
    captions of a random group, of at most MAX_CAPTIONS.

    Raises:
      FileNotFoundError: the data or the scorer are missing.
      ValueError: the samples have no captions, or an option is invalid for this metric.
        The evaluator raises it if there are fewer than two different captions.
    """
    check_held_out(config)
    if "embed" in methods.FAMILIES[config.method].tasks:
        return _of_scorer(config, method)
    return _of_samples(config, method)


def _groups(captions: np.ndarray) -> np.ndarray:
    """Draws groups of examples with different captions, as many as possible."""
    size = min(MAX_CAPTIONS, len(np.unique(captions, axis=0)))
    if size < 2:
        raise ValueError(
            "eval.metric retrieval needs at least two different captions: use more "
            "examples, or another eval.split."
        )
    return retrieval.groups_of_different(captions, size, NUM_GROUPS)


def _of_scorer(config: ConfigDict, method: methods.Method) -> Evaluator:
    embed = over_held_out(config, method, "embed")

    def evaluate(variables: Variables) -> Iterator[Record]:
        names = "image_embedding", "text_embedding", "caption"
        rows = inference.collect(embed(variables), *names)
        image, text, captions = (rows[name] for name in names)
        groups = _groups(captions)
        to_text = retrieval.recall_at_1(image, text, groups)
        to_image = retrieval.recall_at_1(text, image, groups)
        metrics = {
            "retrieval_error": 1 - (to_text + to_image) / 2,
            "image_to_text_recall": to_text,
            "text_to_image_recall": to_image,
        }
        settings = {
            "split": config.eval.split,
            "num_examples": len(captions),
            "num_captions": groups.shape[1],
        }
        yield Record(metrics, settings)

    return evaluate


def _of_samples(config: ConfigDict, method: methods.Method) -> Evaluator:
    runner = task_runner.make(config, method, "sample")
    if "caption" not in runner.fields:
        raise ValueError(
            "eval.metric retrieval needs samples of captions, and this model has none "
            "(model.caption_width = 0): choose another eval.metric."
        )
    if config.sample.prompt is not None:
        raise ValueError(
            "eval.metric retrieval draws the captions of eval.split, whose pictures it "
            "compares with: leave sample.prompt out."
        )
    if not config.eval.scorer:
        raise ValueError(
            "eval.metric retrieval needs a scorer: set eval.scorer to the folder of a "
            "contrastive run."
        )
    image = runner.fields[method.data]
    scorer = scorers.open_scorer(
        config.eval.scorer,
        config.data.source,
        image,
        runner.fields["caption"],
        "eval.scorer",
    )
    held_out, num = run_data.open_held_out(config), config.sample.num_examples

    def evaluate(variables: Variables) -> Iterator[Record]:
        samples = runner.run(variables)
        captions = samples["caption"]
        groups = _groups(captions)
        real = loader.to_batch(held_out, np.arange(num))[method.data]
        recall, of_real = (
            retrieval.recall_at_1(*scorers.embed(scorer, images, captions), groups)
            for images in (np.clip(samples[method.data], -1, 1), real)
        )
        metrics = {
            "retrieval_error": 1 - recall,
            "image_to_text_recall": recall,
            "image_to_text_recall, real": of_real,
        }
        settings = {
            "split": config.eval.split,
            "num_samples": num,
            "num_captions": groups.shape[1],
            "judge": scorer.name,
            "judge_id": scorer.id,
            **sampling_settings(config),
        }
        yield Record(metrics, settings)

    return evaluate

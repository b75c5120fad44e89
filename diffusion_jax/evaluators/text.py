"""Evaluators of language models: bits per character on held-out text."""

import math
import pathlib
import platform
from collections.abc import Iterator

from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data
from diffusion_jax.data import texts
from diffusion_jax.evaluators.base import (
    Evaluator,
    Record,
    check_held_out,
    over_held_out,
)
from diffusion_jax.metrics import ngrams
from diffusion_jax.training.state import Variables

BASELINES = "uniform", "unigram", "2-gram", "3-gram", "4-gram", "5-gram"


def make_bits_per_character(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of -log p of the text in eval.split, in several units.

    Baselines are the uniform distribution and interpolated n-grams of the same tokens,
    counted in data.train_split. A figure belongs to its text, which the settings have a
    hash of; python_docs is another text in every version of Python.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the data do not match the config, or were trained on.
    """
    check_held_out(config)
    run = over_held_out(config, method, "nats")
    train, test = run_data.open_train(config), run_data.open_held_out(config)
    if test.fields[method.data].vocabulary != method.field.vocabulary:
        raise ValueError(
            f"The vocabulary of {config.data.source} is not the one that the model was "
            "trained with: restore the text and the options of data of the training."
        )
    by_order = ngrams.interpolated_nats(
        texts.sequence(train),
        texts.sequence(test),
        len(method.field.vocabulary),
        len(BASELINES) - 1,
    )
    baselines = dict(zip(BASELINES, by_order.sum(axis=1), strict=True))
    text = {"text": texts.fingerprint(test)}
    if config.data.source == "python_docs":
        text["python"] = platform.python_version()

    def evaluate(variables: Variables) -> Iterator[Record]:
        names = "nats", "num_tokens", "num_characters"
        rows = inference.collect(run(variables), *names)
        nats, tokens, characters = (float(rows[name].sum()) for name in names)

        def bits(nats: float) -> float:
            return nats / math.log(2) / characters

        metrics = {
            "bits_per_character": bits(nats),
            **{f"bits_per_character, {x}": bits(y) for x, y in baselines.items()},
            "nats_per_token": nats / tokens,
            "perplexity_per_token": math.exp(nats / tokens),
        }
        settings = {
            "split": config.eval.split,
            "num_tokens": int(tokens),
            "num_characters": int(characters),
            **text,
        }
        yield Record(metrics, settings)

    return evaluate

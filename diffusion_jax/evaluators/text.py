"""Evaluators of text: bits per character, and decoded targets against true ones."""

import logging
import math
import pathlib
import platform
from collections.abc import Callable, Iterator

import numpy as np
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
from diffusion_jax.metrics import text as text_metrics
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training.state import Variables

Tokens = tuple[int, ...]

LOGGER = logging.getLogger(__name__)

MAX_COUNTED = 10**8  # training tokens of n-grams, which need about 110 bytes each
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
    counted, baselines = texts.sequence(train), {}
    if len(counted) <= MAX_COUNTED:
        by_order = ngrams.interpolated_nats(
            counted,
            texts.sequence(test),
            len(method.field.vocabulary),
            len(BASELINES) - 1,
        )
        baselines = dict(zip(BASELINES, by_order.sum(axis=1).tolist(), strict=True))
    else:
        LOGGER.warning(
            "No n-gram baselines: %d training tokens are more than the %d that are "
            "counted.",
            len(counted),
            MAX_COUNTED,
        )
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


def make_perplexity(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of -log p of the targets in eval.split, given their sources.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the data do not match the config.
    """
    run = over_held_out(config, method, "target_nats")

    def evaluate(variables: Variables) -> Iterator[Record]:
        rows = inference.collect(run(variables), "nats", "num_tokens")
        nats, tokens = (float(rows[name].sum()) for name in ("nats", "num_tokens"))
        metrics = {
            "nats_per_token": nats / tokens,
            "perplexity_per_token": math.exp(nats / tokens),
        }
        settings = {"split": config.eval.split, "num_tokens": int(tokens)}
        yield Record(metrics, settings)

    return evaluate


def make_token_nats(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of -log p of images given captions, and of captions.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the data do not match the config, or are training data.
    """
    check_held_out(config)
    run = over_held_out(config, method, "token_nats")
    names = "image_nats", "text_nats", "num_tokens"

    def evaluate(variables: Variables) -> Iterator[Record]:
        rows = inference.collect(run(variables), *names)
        image, text, tokens = (float(rows[name].sum()) for name in names)
        num_examples = len(rows["image_nats"])
        num_codes = num_examples * method.num_codes
        metrics = {
            "nats_per_code": image / num_codes,
            "nats_per_code, uniform": math.log(method.dvae.network.num_codes),
            "nats_per_token": text / tokens,
        }
        settings = {"split": config.eval.split, "num_examples": num_examples}
        yield Record(metrics, settings)

    return evaluate


def make_exact_match(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of decoded targets: exact match and token error rate.

    Each source of eval.split counts once, and is right if its text equals any target
    that it has there. Details: the share of right ones by the source's length.
    """
    decoded = _decode(config, method)

    def evaluate(variables: Variables) -> Iterator[Record]:
        sources, predicted, targets = decoded(variables)
        exact, errors, lengths = text_metrics.error_rates(predicted, targets)
        by_length = text_metrics.mean_by(exact, np.array(list(map(len, sources))))
        metrics = {
            "error": float(1 - exact.mean()),
            "exact_match": float(exact.mean()),
            "token_error_rate": float(errors.sum() / lengths.sum()),
        }
        settings = {"split": config.eval.split, "num_examples": len(sources)}
        details = {"exact_match_by_length": by_length}
        yield Record(metrics, settings | _beam(config), details)

    return evaluate


def make_bleu(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of the BLEU of decoded targets; the score is its negative.

    Raises:
      ModuleNotFoundError: the package sacrebleu is missing.
    """
    text_metrics.import_sacrebleu()  # before anything is decoded
    decoded, vocabulary = _decode(config, method), method.field.vocabulary

    def evaluate(variables: Variables) -> Iterator[Record]:
        sources, predicted, targets = decoded(variables)
        hypotheses = [vocabulary.decode(x) for x in predicted]
        references = [[vocabulary.decode(x) for x in allowed] for allowed in targets]
        bleu = text_metrics.bleu(hypotheses, references)
        settings = {"split": config.eval.split, "num_examples": len(sources)}
        metrics = {"negative_bleu": -bleu, "bleu": bleu}
        yield Record(metrics, settings | _beam(config))

    return evaluate


def _beam(config: ConfigDict) -> dict[str, float]:
    return {name: config.sample[name] for name in ("beam_size", "length_penalty")}


def _decode(
    config: ConfigDict, method: methods.Method
) -> Callable[[Variables], tuple[list[Tokens], list[Tokens], list[list[Tokens]]]]:
    """Makes a function that returns the distinct sources, and of each one the decoded
    text and all targets that it has in the data, without ends."""
    run = over_held_out(config, method, "sample")

    def decoded(
        variables: Variables,
    ) -> tuple[list[Tokens], list[Tokens], list[list[Tokens]]]:
        predicted, targets = {}, {}
        for batch in run(variables):
            columns = batch["source"], batch["text"], batch["target"][:, 1:]
            for source, text, target in zip(*map(_until_end, columns), strict=True):
                predicted[source] = text
                targets.setdefault(source, []).append(target)
        return list(predicted), list(predicted.values()), list(targets.values())

    return decoded


def _until_end(rows: np.ndarray) -> list[Tokens]:
    """Returns the tokens of each row, [b, L], before its first END or padding."""
    ended = np.cumsum((rows == END) | (rows == PAD), axis=1) > 0
    lengths = (~ended).sum(axis=1)
    return [tuple(row[:n]) for row, n in zip(rows.tolist(), lengths, strict=True)]

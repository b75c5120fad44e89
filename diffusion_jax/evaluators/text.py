"""Evaluators of language models: bits per character on held-out text."""

import math
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from diffusion_jax import inference, methods
from diffusion_jax.evaluators.base import Evaluator, Record, over_held_out
from diffusion_jax.training.state import Variables


def make_bits_per_character(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of -log p of the text in eval.split, in several units."""
    run = over_held_out(config, method, "nats")

    def evaluate(variables: Variables) -> Iterator[Record]:
        names = "nats", "num_tokens", "num_characters"
        rows = inference.collect(run(variables), *names)
        nats, tokens, characters = (float(rows[name].sum()) for name in names)
        metrics = {
            "bits_per_character": nats / math.log(2) / characters,
            "nats_per_token": nats / tokens,
            "perplexity_per_token": math.exp(nats / tokens),
        }
        settings = {
            "split": config.eval.split,
            "num_tokens": int(tokens),
            "num_characters": int(characters),
        }
        yield Record(metrics, settings)

    return evaluate

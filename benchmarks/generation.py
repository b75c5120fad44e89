"""Measures the generation of text by GPT: with the cache, without, and by transformers.

    python -m benchmarks.generation --lengths 128 256 512 --batch_size 1 --width 128

Networks of the same size and with random weights continue one token greedily, by
`length` tokens. Without the cache, each token reads all `length`
positions again (a growing prefix would need half). Needs the
extra bench; transformers' GPT-2 generates with its own cache.
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks import comparisons
from benchmarks.reports import Report
from benchmarks.turns import Program, Worker, in_turn, process_memory

SIDES = {
    "cached": "benchmarks.generation:cached",
    "recomputed": "benchmarks.generation:recomputed",
    "transformers": "benchmarks.generation:transformers",
}
COLUMNS = {
    "tokens": "{length}",
    "batch": "{batch_size}",
    "side": "{side}",
    "parameters": "{parameters:,}",
    "tokens/s": "{tokens_per_second:.0f}",
    "ms": "{milliseconds:.1f}",
    "times the cached": "{ratio:.2f}",
}
VOCABULARY_SIZE, END = 1024, 1


def main() -> None:
    """Measures every length and batch size, the sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--lengths", nargs="+", type=int, default=[128, 256])
    add("--batch_size", nargs="+", type=int, default=[1])
    add("--num_layers", type=int, default=4)
    add("--num_heads", type=int, default=4)
    add("--width", type=int, default=128)
    add("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    add("--rounds", type=int, default=5, help="turns of each side")
    add("--seconds", type=float, default=2.0, help="length of a turn")
    comparisons.add_output(parser)
    options = parser.parse_args()
    report = Report("generation", COLUMNS, options.json, options.output)
    report.header()
    shape = {name: getattr(options, name) for name in ("num_layers", "num_heads")}
    shape["width"] = options.width
    for length, batch_size in itertools.product(options.lengths, options.batch_size):
        setting = shape | {"length": length, "batch_size": batch_size}
        measure(report, setting, options.sides, options.rounds, options.seconds)


def measure(
    report: Report,
    setting: Mapping[str, int],
    sides: list[str],
    rounds: int,
    seconds: float,
) -> None:
    """Runs the sides of one setting in turn, and reports the median of each."""
    environment = comparisons.ENVIRONMENT
    workers = [Worker(SIDES[side], setting, environment) for side in sides]
    found = in_turn(workers, rounds, seconds)
    median = [statistics.median(x.wall for x in timings) for timings in found]
    for side, worker, wall in zip(sides, workers, median, strict=True):
        report.add(
            {
                **setting,
                "side": side,
                "parameters": worker.info["parameters"],
                "milliseconds": 1e3 * wall,
                "tokens_per_second": setting["batch_size"] * setting["length"] / wall,
                "ratio": wall / median[0],
            }
        )
        worker.close()


def cached(batch_size: int, length: int, **shape: int) -> Program:
    """Makes our generation, which remembers keys and values."""
    import jax
    import jax.numpy as jnp

    from diffusion_jax.decoding import token_samplers
    from diffusion_jax.decoding.generation import Decoder, generate

    network, variables = ours(length, **shape)
    apply = functools.partial(network.apply, variables)
    decoder = Decoder(
        functools.partial(apply, batch_size, method="init_cache"),
        functools.partial(apply, method="step"),
    )
    prompt = jnp.full((batch_size, 1), END, jnp.int32)
    keys = jax.random.split(jax.random.key(0), batch_size)

    @jax.jit
    def continued() -> jax.Array:
        return generate(decoder, prompt, length, token_samplers.greedy, keys)

    return program(continued, variables)


def recomputed(batch_size: int, length: int, **shape: int) -> Program:
    """Makes a generation that reads the whole context for each token."""
    import jax
    import jax.numpy as jnp

    network, variables = ours(length, **shape)

    def step(tokens: jax.Array, position: jax.Array) -> tuple[jax.Array, None]:
        logits = network.apply(variables, tokens[:, :length])
        now = jnp.argmax(logits[:, position], axis=-1).astype(tokens.dtype)
        return tokens.at[:, position + 1].set(now), None

    @jax.jit
    def continued() -> jax.Array:
        start = jnp.full((batch_size, length + 1), END, jnp.int32)
        return jax.lax.scan(step, start, jnp.arange(length))[0]

    return program(continued, variables)


def ours(length: int, num_layers: int, num_heads: int, width: int) -> tuple[Any, Any]:
    """Returns a GPT and random variables."""
    import jax
    import jax.numpy as jnp

    from diffusion_jax.models.transformer import GPT

    network = GPT(VOCABULARY_SIZE, length, num_layers, num_heads, width, "learned", 0.0)
    tokens = jnp.zeros((1, 1), jnp.int32)
    return network, jax.jit(network.init)(jax.random.key(0), tokens)


def program(continued: Any, variables: Any) -> Program:
    """Makes a program of a compiled function without arguments."""
    import jax

    def run(times: int) -> None:
        for _ in range(times):
            jax.block_until_ready(continued())

    parameters = sum(x.size for x in jax.tree.leaves(variables))
    return Program(run, {"parameters": parameters}, process_memory)


def transformers(
    batch_size: int, length: int, num_layers: int, num_heads: int, width: int
) -> Program:
    """Makes the generation of GPT-2 in the library transformers, with its cache."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=length,
        n_layer=num_layers,
        n_head=num_heads,
        n_embd=width,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    network = GPT2LMHeadModel(config).eval().to(device)
    prompt = torch.full((batch_size, 1), END, device=device)

    @torch.inference_mode()
    def run(times: int) -> None:
        for _ in range(times):
            tokens = network.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=length,
                max_new_tokens=length,
            )
            if tokens.shape[1] != length + 1:
                raise RuntimeError(f"It generated {tokens.shape[1] - 1} tokens.")
        if device == "cuda":
            torch.cuda.synchronize()

    parameters = sum(x.numel() for x in network.parameters())
    return Program(run, {"parameters": parameters}, process_memory)


if __name__ == "__main__":
    main()

"""Compares cuDNN's fused attention with plain XLA, in bfloat16, on a GPU.

    python -m benchmarks.attention

The error is that of the gradients of queries, keys and values, as the norm of the
difference from float32 over the norm of the latter; the time is that of the gradient.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks import comparisons
from benchmarks.equality import distance
from benchmarks.reports import Report
from diffusion_jax.models import attention

ROUNDS, CALLS = 20, 10
COLUMNS = {
    "queries [B, T, C]": "{shape}",
    "how": "{how}",
    "error": "{error:.1e}",
    "ms": "{milliseconds:.3f}",
}


def main() -> None:
    """Compares both for heads of several sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=256, help="pixels of an image")
    comparisons.add_output(parser)
    arguments = parser.parse_args()
    if not attention.compute_capability():
        sys.exit("Fused attention needs an NVIDIA GPU, and JAX sees none.")
    report = Report("attention", COLUMNS, arguments.json, arguments.output)
    report.header(accelerator=jax.devices()[0].device_kind)
    for channels in arguments.channels:
        shape = arguments.batch_size, arguments.tokens, channels
        inputs = jax.random.normal(jax.random.key(0), (4, *shape), jnp.bfloat16)
        exact = gradient_of(attention.plain)(*inputs.astype(jnp.float32))
        for how, function in (("plain", attention.plain), ("fused", attention.fused)):
            gradient = gradient_of(function)
            error = distance(gradient(*inputs), exact)
            record = {"shape": list(shape), "how": how, "error": error}
            report.add(record | {"milliseconds": median_time(gradient, inputs)})


def gradient_of(function: Callable[..., Array]) -> Callable[..., tuple[Array, ...]]:
    """Returns (query, key, value, gradient of the result) -> gradients of the three."""
    return jax.jit(lambda *x: jax.vjp(function, *x[:3])[1](x[3]))


def median_time(function: Callable, inputs: Array) -> float:
    """Returns the median time of a call in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            result = function(*inputs)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / CALLS)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()

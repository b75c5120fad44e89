"""Times choices against their alternatives: attention, norms, dropout, options of XLA.

    python -m benchmarks.alternatives

Times of this process, in turn; the medians, and the median ratio to today's choice.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import comparisons, ours
from diffusion_jax import prng
from diffusion_jax.data import loader
from diffusion_jax.models.attention import attention
from diffusion_jax.models.norms import GroupNorm
from diffusion_jax.training import compilation
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import make_train_step

RATE = 0.1  # of dropout
ROUNDS, SECONDS = 7, 0.3
Alternatives = Mapping[str, Callable[..., Array]]


def xla_attention(query: Array, key: Array, value: Array) -> Array:
    """JAX's own attention of one head."""
    heads = (x[:, :, None] for x in (query, key, value))
    return jax.nn.dot_product_attention(*heads, implementation="xla")[:, :, 0]


def gradient_of(function: Callable[..., Array]) -> Callable:
    """Returns the compiled gradient with respect to all arguments."""
    return jax.jit(jax.grad(lambda *x: jnp.sum(jnp.sin(function(*x))), (0, 1, 2)))


def threefry(key: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Today's masks: 32 bits an activation from a key an example."""
    keys = prng.example_keys(key, index)
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - RATE, shape))(keys)


def threefry_16(key: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """16 bits an activation."""
    keys = prng.example_keys(key, index)
    bits = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint16))(keys)
    return bits >= np.uint16(RATE * 2**16)


def rbg(key: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """One rbg key an example, in a loop: under vmap all of them draw the same."""

    def mask(index: Array) -> Array:
        data = jax.random.key_data(jax.random.fold_in(key, index))
        wide = jax.random.wrap_key_data(jnp.concatenate([data, data]), impl="rbg")
        return jax.random.bernoulli(wide, 1 - RATE, shape)

    return jax.lax.map(mask, index)


def norm_gradient(norm: nn.Module) -> Callable[..., Array]:
    """Returns the gradient of a group norm and the swish that follows it."""

    def loss(x: Array, scale: Array, bias: Array) -> Array:
        params = {"params": {"scale": scale, "bias": bias}}
        return jnp.sum(jnp.sin(nn.swish(norm.apply(params, x))))

    return compiled_for_speed(jax.grad(loss, (0, 1, 2)))


def compiled_for_speed(function: Callable) -> Callable:
    """Compiles a function with the trainer's options, at its first call."""
    options = compilation.for_backend(compilation.REPEATED)
    return jax.jit(function, compiler_options=options)


def make_step(name: str, batch_size: int) -> tuple[Callable, TrainState, Any]:
    """Returns the train step of a config, a state, and a batch."""
    config = comparisons.load_config(f"configs/{name}.py", [])
    _, method, source = ours.prepare(config, "float32")
    batch = loader.read(source, np.arange(batch_size))
    return make_train_step(method, None), ours.make_state(method), batch


def compare(title: str, alternatives: Alternatives, *args: Any) -> None:
    """Prints one row of a table for each; the first one is today's."""

    def seconds(function: Callable, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            result = function(*args)
        jax.block_until_ready(jax.tree.leaves(result)[0])
        return (time.perf_counter() - start) / times

    times = {}
    for name, function in alternatives.items():
        seconds(function, 1)
        times[name] = max(1, round(SECONDS / max(seconds(function, 3), 1e-5)))
    found = {name: [] for name in alternatives}
    for _ in range(ROUNDS):
        for name, function in alternatives.items():
            found[name].append(seconds(function, times[name]))
    today = next(iter(found.values()))
    for name, values in found.items():
        ratio = statistics.median(x / y for x, y in zip(values, today, strict=True))
        median = 1e3 * statistics.median(values)
        print(f"| {title} | {name} | {median:.2f} | {ratio:.2f} |", flush=True)


def main() -> None:
    """Prints the table."""
    print("| what | how | ms | ratio |\n|---|---|---|---|")
    draws = np.random.default_rng(0)
    for shape in ((8, 256, 256), (2, 256, 512)):
        args = [jnp.asarray(draws.normal(size=shape), jnp.float32) for _ in range(3)]
        functions = {"einsum": attention, "dot_product_attention": xla_attention}
        gradients = {name: gradient_of(f) for name, f in functions.items()}
        compare(f"gradient of attention {shape}", gradients, *args)
    for size, *shape in ((8, 32, 32, 128), (8, 16, 16, 256)):
        masks = {
            f.__name__: jax.jit(functools.partial(f, shape=tuple(shape)))
            for f in (threefry, threefry_16, rbg)
        }
        title = f"dropout masks {(size, *shape)}"
        compare(title, masks, jax.random.key(0), jnp.arange(size))
    for shape, groups in (((128, 8, 8, 64), 16), ((8, 32, 32, 128), 32)):
        sizes = shape, shape[-1:], shape[-1:]
        args = [jnp.asarray(draws.normal(size=n), jnp.float32) for n in sizes]
        flax_norm = nn.GroupNorm(groups, epsilon=1e-6)
        norms = {"ours": GroupNorm(groups, 1e-6, jnp.float32), "Flax's": flax_norm}
        gradients = {name: norm_gradient(norm) for name, norm in norms.items()}
        compare(f"gradient of group norm and swish {shape}", gradients, *args)
    for name, batch_size in (("digits", 32), ("digits", 128), ("cifar10", 8)):
        step, *args = make_step(name, batch_size)
        steps = {"ours": compiled_for_speed(step), "XLA's defaults": jax.jit(step)}
        compare(f"options of XLA, {name}, batch {batch_size}", steps, *args)


if __name__ == "__main__":
    main()

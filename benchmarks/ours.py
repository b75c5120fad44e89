"""Our side: the functions that the trainer and the sampling command call."""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

import benchmarks.without_grain  # noqa: F401
from benchmarks.turns import Program, process_memory
from diffusion_jax import inference, methods
from diffusion_jax.data import base, loader
from diffusion_jax.data.base import ArraySource, Range
from diffusion_jax.methods.base import GROUP
from diffusion_jax.training import compilation, parallel
from diffusion_jax.training.costs import count_flops
from diffusion_jax.training.state import TrainState, Variables, trace_initial
from diffusion_jax.training.step import make_train_step

NUM_IMAGES = 4096  # in the data set


def train_step(config: Mapping[str, Any], batch_size: int, dtype: str) -> Program:
    """Makes the trainer's step: batch, forward, loss, backward, clipping, Adam, EMA."""
    config, method, source = prepare(config, dtype)
    batches = loader.Loader(source, batch_size, config.seed, flip=config.data.flip)
    stream = parallel.to_devices(batches.iterate(0, 2**31 // batch_size))
    state = make_state(method)
    run_step = parallel.train_step_on_devices(make_train_step(method, parallel.axis()))

    def run(times: int) -> None:
        nonlocal state
        last: dict[str, Any] = {}
        for _, batch in itertools.islice(stream, times):
            state, metrics = run_step(state, batch, 0)
            for value in last.values():
                float(value)  # the log reads the metrics a step late
            last = metrics
        jax.block_until_ready((state.params, last))

    flops = count_flops(
        make_train_step(method, None),
        trace_initial(method).out_info,
        batches.batch_at(0),
    )
    return Program(run, info(state.variables, flops), memory)


def forward(config: Mapping[str, Any], batch_size: int, dtype: str) -> Program:
    """Makes a forward pass of a batch."""
    config, method, source = prepare(config, dtype)
    variables = make_state(method).averaged
    shape = (batch_size, *method.field.shape)
    batch = {
        "image": np.random.default_rng(0).standard_normal(shape, np.float32),
        "index": np.arange(batch_size, dtype=np.int32),
    }

    apply = parallel.map_on_devices(network_of(method))
    key = jax.random.key(0)

    def run(times: int) -> None:
        for _ in range(times):
            apply(variables, batch, key)

    return Program(run, info(variables, forward_flops(method, batch_size)), memory)


def sample(
    config: Mapping[str, Any],
    batch_size: int,
    dtype: str,
    sampler: str,
    num_steps: int,
) -> Program:
    """Makes a run of the reverse chain for one batch, as --mode=sample runs it."""
    config, method, source = prepare(config, dtype)
    config.sample.update(sampler=sampler, num_steps=num_steps, spacing="trailing")
    task = methods.make_task(config, method, "sample", num_frames=0)
    stream = inference.make_stream(task, batch_size, seed=0)
    variables = make_state(method).averaged

    def run(times: int) -> None:
        for _ in stream(variables, Range(batch_size * times), batch_size * times):
            pass

    flops = num_steps * forward_flops(method, batch_size)
    return Program(run, info(variables, flops), memory)


def scaled_step(config: Mapping[str, Any], batch_size: int) -> Program:
    """Makes a train step, and measures its compilation and its memory.

    The program of one device is compiled without the devices' average; with several
    devices the step that runs is the trainer's.
    """
    config, method, source = prepare(config, config["model"]["dtype"])
    batch = loader.read(source, np.arange(batch_size))
    devices = jax.local_device_count()
    share = jax.tree.map(lambda x: x[: batch_size // devices], batch)
    step = make_train_step(method, None)
    state = make_state(method)
    compiled, found = compile_(step, (state, share), donate=(0,))
    if devices > 1:
        on_devices = parallel.train_step_on_devices(
            make_train_step(method, parallel.axis())
        )
        batch = parallel.shard(batch)
        run_step = lambda state: on_devices(state, batch, 0)  # noqa: E731
    else:
        run_step = lambda state: compiled(state, batch)  # noqa: E731

    def run(times: int) -> None:
        nonlocal state
        for _ in range(times):
            state, _ = run_step(state)
        jax.block_until_ready(state.params)

    return Program(run, found, memory)


def scaled_sample(
    config: Mapping[str, Any], num_images: int, sampler: str, num_steps: int
) -> Program:
    """Makes a run of the reverse chain, and measures its compilation and its memory."""
    config, method, _ = prepare(config, config["model"]["dtype"])
    config.sample.update(sampler=sampler, num_steps=num_steps, spacing="trailing")
    task = methods.make_task(config, method, "sample", num_frames=0)
    batch = {"index": np.arange(num_images, dtype=np.int32)}
    arguments = make_state(method).averaged, batch, jax.random.key(0)
    compiled, found = compile_(task.run, arguments)

    def run(times: int) -> None:
        for _ in range(times):
            jax.block_until_ready(compiled(*arguments))

    return Program(run, found, memory)


def compile_(
    function: Callable, arguments: tuple, donate: tuple[int, ...] = ()
) -> tuple[Callable, dict[str, float]]:
    """Compiles a function; returns it, the CPU seconds that took, and its memory."""
    start = time.process_time()
    lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
    options = compilation.for_backend(compilation.REPEATED)
    compiled = lowered.compile(compiler_options=options)
    seconds = time.process_time() - start
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    found = {"compile_seconds": seconds, "megabytes": size / 1e6}
    return compiled, found | {"device": jax.default_backend()}


def product(dtype: str, size: int) -> Program:
    """Makes a product of two matrices [size, size], the ceiling of everything else."""
    multiply = jax.jit(jnp.matmul)
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)

    def run(times: int) -> None:
        for _ in range(times):
            c = multiply(a, b)
        jax.block_until_ready(c)

    return Program(run, {"flops": 2 * size**3}, memory)


def prepare(
    config: Mapping[str, Any], dtype: str
) -> tuple[ConfigDict, methods.Method, ArraySource]:
    """Builds the method of a config, and random images in the place of its data."""
    config = ConfigDict(dict(config))
    config.model.dtype = dtype
    data = config.data
    shape = (data.image_size, data.image_width or data.image_size, data.num_channels)
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *shape), np.uint8)
    source = ArraySource({"image": images}, {"image": base.image_field(shape)})
    return config, methods.make(config, source.fields), source


def make_state(method: methods.Method) -> TrainState:
    """Returns a state with random numbers on the devices, without compiling anything.

    Their values change no measurement; they are positive, as the optimiser's second
    moments are.
    """
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> Array | np.ndarray:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return rng.uniform(0.0, 0.02, leaf.shape).astype(leaf.dtype)
        return np.zeros(leaf.shape, leaf.dtype)

    return parallel.replicate(jax.tree.map(draw, trace_initial(method).out_info))


def network_of(method: methods.Method) -> Callable:
    """Returns the network as a function that `parallel.map_on_devices` takes."""

    def network(variables: Variables, batch: dict, key: Array) -> dict[str, Array]:
        t = jnp.zeros(batch["image"].shape[0], jnp.int32)
        params = {"params": variables.params[GROUP]}
        return {"image": method.network.apply(params, batch["image"], t)}

    return network


def forward_flops(method: methods.Method, batch_size: int) -> int:
    """Counts the operations of a forward pass."""
    x = jax.ShapeDtypeStruct((batch_size, *method.field.shape), jnp.float32)
    variables = trace_initial(method).out_info.variables
    return count_flops(network_of(method), variables, {"image": x}, None)


def memory() -> int:
    """Returns the most memory used so far, of the GPU or of this process, in bytes."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or process_memory()


def info(variables: Variables, flops: float) -> dict[str, Any]:
    """Returns what is reported of every program."""
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(variables.params)),
        "flops": flops,
        "device": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "flops_by": "costs.count_flops",
    }


def device() -> Program:
    """Describes the device; there is nothing to run."""
    found = {"device": jax.default_backend(), "kind": jax.devices()[0].device_kind}
    return Program(lambda times: None, found, memory)

"""Our side: the functions that the trainer and the sampling command call."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from benchmarks.turns import Program
from diffusion_jax import inference, methods, runs
from diffusion_jax.data import base
from diffusion_jax.data.base import ArraySource, Range
from diffusion_jax.methods.base import GROUP
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.state import TrainState, Variables
from diffusion_jax.training.step import make_train_step

NUM_IMAGES = 4096  # in the data set


def train_step(config: Mapping[str, Any], batch_size: int, dtype: str) -> Program:
    """Makes the trainer's step: batch, forward, loss, backward, clipping, Adam, EMA."""
    from diffusion_jax.data.loader import Loader  # needs grain

    config, method, source = prepare(config, dtype)
    batches = Loader(source, batch_size, config.seed, flip=config.data.flip)
    stream = batches.iterate(0, 2**31 // batch_size)
    state = make_state(method)
    run_step = parallel.train_step_on_devices(make_train_step(method, parallel.AXIS))

    def run(times: int) -> None:
        nonlocal state
        last: dict[str, Any] = {}
        for _, batch in itertools.islice(stream, times):
            state, metrics = run_step(state, parallel.shard(batch), 0)
            for value in last.values():
                float(value)  # the log reads the metrics a step late
            last = metrics
        jax.block_until_ready((state.params, last))

    flops = step_flops(method, batches.batch_at(0))
    return Program(run, info(state.variables, flops))


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

    return Program(run, info(variables, forward_flops(method, batch_size)))


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
    return Program(run, info(variables, flops))


def product(dtype: str, size: int) -> Program:
    """Makes a product of two matrices [size, size], the ceiling of everything else."""
    multiply = jax.jit(jnp.matmul)
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)

    def run(times: int) -> None:
        for _ in range(times):
            c = multiply(a, b)
        jax.block_until_ready(c)

    return Program(run, {"flops": 2 * size**3, "kind": jax.devices()[0].device_kind})


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
    """Returns a state on the devices, as before the first step."""
    state = jax.jit(functools.partial(states.initial, method))(jax.random.key(0))
    return parallel.replicate(state)


def network_of(method: methods.Method) -> Callable:
    """Returns the network as a function that `parallel.map_on_devices` takes."""

    def network(variables: Variables, batch: dict, key: Array) -> dict[str, Array]:
        t = jnp.zeros(batch["image"].shape[0], jnp.int32)
        params = {"params": variables.params[GROUP]}
        return {"image": method.network.apply(params, batch["image"], t)}

    return network


def forward_flops(method: methods.Method, batch_size: int) -> float:
    """Counts the operations of a forward pass."""
    x = jax.ShapeDtypeStruct((batch_size, *method.field.shape), jnp.float32)
    variables = runs.make_template(method).variables
    return count_flops(network_of(method), variables, {"image": x}, None)


def step_flops(method: methods.Method, batch: dict[str, np.ndarray]) -> float:
    """Counts the operations of a train step."""
    return count_flops(make_train_step(method, None), runs.make_template(method), batch)


def count_flops(function: Callable, *arguments: Any) -> float:
    """Counts the operations of a program before XLA fuses any of them."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def info(variables: Variables, flops: float) -> dict[str, Any]:
    """Returns what is reported of every program."""
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(variables.params)),
        "flops": flops,
        "device": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "flops_by": "XLA, before fusion",
    }


def device() -> Program:
    """Describes the device; there is nothing to run."""
    found = {"device": jax.default_backend(), "kind": jax.devices()[0].device_kind}
    return Program(lambda times: None, found)

"""Devices and processes: the only file that knows how the work is spread over them.

One program runs on every process (host); each process drives its local devices; the
batch is split evenly over all devices, in order of process and device.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils

PyTree = Any
AXIS = "batch"


def initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins this process to the others.

    With a coordinator: as told. Without one: by what the platform says of itself
    (Cloud TPU pods, SLURM, Open MPI, Kubernetes).

    Args:
      coordinator: "address:port" of process 0, or None.
      num_processes: of the whole run; needed with a coordinator.
      process_id: 0..num_processes-1; needed with a coordinator.

    Raises:
      ValueError: a coordinator without the other two.
    """
    if coordinator and (num_processes is None or process_id is None):
        raise ValueError(
            "--coordinator needs --num_processes and --process_id beside it."
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def on_pod() -> bool:
    """Whether this is one worker of several of a Cloud TPU pod."""
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def describe() -> str:
    """What the program runs on, e.g. "2 cpu devices" or "8 of 32 TPU v4 devices"."""
    local, total = jax.local_device_count(), jax.device_count()
    number = str(total) if local == total else f"{local} of {total}"
    plural = "" if total == 1 else "s"
    return f"{number} {jax.devices()[0].device_kind} device{plural}"


def process_index() -> int:
    """Which process this is; 0 writes the logs."""
    return jax.process_index()


def process_count() -> int:
    """How many processes share the run."""
    return jax.process_count()


def check_batch_size(batch_size: int, name: str, parts: int = 1) -> None:
    """Refuses, in words, a batch that cannot be split evenly over all devices, and
    each device's share into that many parts."""
    if batch_size % (jax.device_count() * parts):
        shares = f" in {parts} parts" if parts > 1 else ""
        raise ValueError(
            f"{name} = {batch_size} cannot be split evenly over "
            f"{jax.device_count()} devices{shares}: make it a multiple of "
            f"{jax.device_count() * parts}."
        )


def barrier(name: str) -> None:
    """Waits until every process has come here."""
    multihost_utils.sync_global_devices(name)


def mean(tree: PyTree) -> PyTree:
    """Averages over all devices; only inside a step that runs on them."""
    return lax.pmean(tree, AXIS)


def gather(tree: PyTree) -> PyTree:
    """Joins the devices' parts [b, ...] in their order, [D b, ...]; inside a step."""
    return jax.tree.map(lambda x: lax.all_gather(x, AXIS, tiled=True), tree)


def replicate(tree: PyTree) -> PyTree:
    """Copies a tree to each local device, as a new leading axis."""
    devices = np.arange(jax.local_device_count())
    # The axis is the step's: under another name its first result would be laid out in
    # other words than its first argument, and the second step compiled anew.
    copy = jax.pmap(lambda x, device: x, AXIS, in_axes=(None, 0))
    return copy(tree, devices)


def unreplicate(tree: PyTree) -> PyTree:
    """Takes the first local device's part of a tree, without a gather."""
    return jax.tree.map(lambda x: x.addressable_data(0)[0], tree)


def shard(batch: PyTree) -> PyTree:
    """Splits the process's part of a batch [b, ...] over its devices, [D, b/D, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def train_step_on_devices(step: Callable) -> Callable:
    """Runs a train step on all devices of all processes.

    A request to stop travels with the batch, so that every process sees the request
    of any of them at the same step.

    Args:
      step: (state, shard of the batch) -> (state, metrics).

    Returns:
      (replicated state, sharded batch, whether to stop) -> (state, metrics), where
      metrics have "stop" > 0 beside them. The state passed in is donated.
    """

    def with_stop(state, batch, stop):
        state, metrics = step(state, batch)
        return state, metrics | {"stop": lax.pmax(stop, AXIS)}

    on_devices = jax.pmap(with_stop, axis_name=AXIS, donate_argnums=0)

    def run(state, batch, stop: bool):
        return on_devices(
            state, batch, np.full(jax.local_device_count(), stop, np.float32)
        )

    return run


def map_on_devices(function: Callable) -> Callable:
    """Runs a function of examples on this process's devices.

    Every process computes the same result from the same arguments.

    Args:
      function: (tree, key, examples with leading axis b) -> tree with leading axis b.

    Returns:
      (tree, key, examples) -> host arrays; leading axes may be any length: they are
      filled up with the last example to fit the devices, and cut again.
    """
    devices = jax.local_devices()
    on_devices = jax.pmap(function, in_axes=(None, None, 0), devices=devices)

    def run(tree: PyTree, key: Array, examples: PyTree) -> PyTree:
        length = len(jax.tree.leaves(examples)[0])
        missing = -length % len(devices)
        filled = jax.tree.map(
            lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]), examples
        )
        result = jax.device_get(on_devices(tree, key, shard(filled)))
        return jax.tree.map(lambda x: np.concatenate(x)[:length], result)

    return run

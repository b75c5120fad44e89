"""Devices and processes: the only file that distributes work over them.

The same program runs in every process (one per host), and each process drives its local
devices. A batch is split evenly over all devices, in order of process and device;
everything else, such as a training state, is replicated.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, stages
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from diffusion_jax.training import batches, compilation, costs

PyTree = Any
AXIS = "batch"
# Longer than whatever one process does while the others wait for it at a barrier.
LONGEST_WAIT = 6 * 60 * 60


def describe() -> str:
    """Describes the devices, e.g. "2 cpu devices" or "8 of 32 TPU v4 devices"."""
    local, total = jax.local_device_count(), jax.device_count()
    number = str(total) if local == total else f"{local} of {total}"
    plural = "" if total == 1 else "s"
    return f"{number} {jax.devices()[0].device_kind} device{plural}"


def num_devices() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


def device_kind() -> str:
    """Returns what JAX calls the devices, such as "NVIDIA H100 80GB HBM3"."""
    return jax.devices()[0].device_kind


def device_memory() -> dict[str, int]:
    """Returns what is known of the memory of this process's devices; {} on CPUs.

    In bytes: "peak_bytes_in_use", the largest, and "bytes_limit", the smallest.
    """
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    wanted = {"peak_bytes_in_use": max, "bytes_limit": min}
    return {
        name: choose(stats[name] for stats in found)
        for name, choose in wanted.items()
        if all(name in stats for stats in found)
    }


def process_index() -> int:
    """Returns the number of this process; process 0 writes the logs."""
    return jax.process_index()


def process_count() -> int:
    """Returns the number of processes in the run."""
    return jax.process_count()


def check_batch_size(
    batch_size: int, name: str, parts: int = 1, reason: str = ""
) -> None:
    """Raises ValueError unless a batch splits evenly over all devices.

    Args:
      batch_size: over all devices of all processes.
      name: the config key, for the message.
      parts: number of parts that each device's share is split into.
      reason: why, for the message.
    """
    if batch_size % (jax.device_count() * parts):
        shares = f" in {parts} parts{reason}" if parts > 1 else ""
        raise ValueError(
            f"{name} = {batch_size} cannot be split evenly over "
            f"{jax.device_count()} devices{shares}: make it a multiple of "
            f"{jax.device_count() * parts}."
        )


def round_up(batch_size: int) -> int:
    """Rounds up to a multiple of the number of devices of all processes."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def barrier(name: str) -> None:
    """Waits until every process has reached this point.

    The processes meet at process 0's coordination service. No device takes part, so
    that there is no collective whose few seconds of patience could run out.
    """
    meet = multihost.get_barrier_sync_fn()
    meet(key=name, timeout_ms=LONGEST_WAIT * 1000)


def axis() -> str | None:
    """Returns the name of the axis of all devices; None if there is only one.

    XLA would copy all gradients to average them over one device.
    """
    return AXIS if jax.device_count() > 1 else None


def mean(tree: PyTree, axis: str | None) -> PyTree:
    """Averages over the devices of a named axis; returns the tree if axis is None."""
    return tree if axis is None else lax.pmean(tree, axis)


def weighted_mean(tree: PyTree, weight: Array | float, axis: str | None) -> PyTree:
    """Averages over the devices of a named axis, with each device's weight w_i.

        sum_i w_i x_i / sum_i w_i

    Returns the tree if axis is None.
    """
    if axis is None:
        return tree
    scale = weight / lax.pmean(weight, axis)
    return lax.pmean(jax.tree.map(lambda x: scale * x, tree), axis)


def gather(tree: PyTree, axis: str | None) -> PyTree:
    """Concatenates the devices' rows in order, [b, ...] -> [B, ...], on every device.

    Returns the tree if axis is None.
    """
    if axis is None:
        return tree
    return jax.tree.map(lambda x: lax.all_gather(x, axis, tiled=True), tree)


def replicate(tree: PyTree, donate: bool = False) -> PyTree:
    """Copies a tree to every device of this process, without adding an axis.

    The copies can be donated: they share no buffer with an argument that is kept.

    Args:
      tree: arrays of the host or of a device.
      donate: give the argument up: an array that lies on a device already is not copied
        there, so that no device holds two of them.
    """
    sharding = NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec())

    def place(x: Array | np.ndarray) -> Array:
        if not (donate and isinstance(x, Array)):
            x = jnp.copy(x)  # the donation of a host array would not be its own
        return jax.device_put(x, sharding)

    return jax.tree.map(place, tree)


def to_global(tree: PyTree) -> PyTree:
    """Turns arrays that are replicated in every process into global arrays.

    Arrays that already span several processes are unchanged. No data is copied.
    """
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(jax.devices(), AXIS)
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec())


def to_host(x: Array) -> np.ndarray:
    """Copies a whole array to this host, even if it is sharded over processes.

    Unlike with `np.asarray(x)`, JAX does not cache the copy.
    """
    if x.is_fully_replicated:
        return np.asarray(x.addressable_data(0))
    return multihost_utils.process_allgather(x, tiled=True)


def shard(batch: PyTree) -> PyTree:
    """Splits this process's batch over its devices, [b, ...] -> [D, b/D, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def to_devices(
    stream: Iterator[tuple[int, PyTree]],
) -> Iterator[tuple[int, PyTree]]:
    """Splits batches over the devices and copies them there one step ahead.

    CPUs share the host's memory: their batches stay host arrays.

    Args:
      stream: (step, this process's batch [b, ...]).

    Yields:
      (step, the batch as from `shard`, [D, b/D, ...]).
    """
    shards = ((step, shard(batch)) for step, batch in stream)
    if jax.default_backend() == "cpu":
        yield from shards
        return
    sharding = NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec(AXIS))
    ready = None
    for step, batch in shards:
        copied = step, jax.device_put(batch, sharding)  # returns before it is done
        if ready:
            yield ready
        ready = copied
    if ready:
        yield ready


def local_rows(x: np.ndarray) -> np.ndarray:
    """Returns this process's share of a global batch [B, ...], contiguous rows."""
    return np.split(x, jax.process_count())[jax.process_index()]


def all_rows(tree: PyTree) -> PyTree:
    """Concatenates the rows of host arrays [b, ...] of all processes, in order."""
    if jax.process_count() == 1:
        return tree
    barrier("all rows are computed")
    return multihost_utils.process_allgather(tree, tiled=True)


def largest(number: int) -> int:
    """Returns the largest of all processes' numbers, in every process."""
    return int(np.max(all_rows(np.array([number]))))


def _compile(on_devices: Callable, *args: Any) -> tuple[Callable, stages.Compiled]:
    """Compiles a function of `jax.pmap` for its arguments, which are not donated.

    No process runs the program before all of them have compiled it: a collective waits
    for the others only for a while (on CPUs 30 s), and with a warm compilation cache
    one process is ready long before the others.

    Returns:
      The function to call, and the program that it runs.
    """
    lowered = on_devices.lower(*args)
    if jax.process_count() == 1:
        options = compilation.for_backend(compilation.REPEATED)
        compiled = lowered.compile(compiler_options=options)
        return compiled, compiled
    # The compiled program takes arrays of all processes, `on_devices` those of one: it
    # finds the program in JAX's cache.
    compiled = lowered.compile()
    barrier("compiled")
    return on_devices, compiled


def shapes(batch: PyTree) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes of a batch's arrays, for which a step is compiled."""
    return tuple(x.shape for x in jax.tree.leaves(batch))


class TrainStep:
    """A train step on all devices of all processes, see `train_step_on_devices`."""

    def __init__(self, on_devices: Callable):
        self._on_devices = on_devices
        self._compiled: dict[tuple[tuple[int, ...], ...], Callable] = {}

    def compile(self, state: PyTree, batch: PyTree) -> stages.Compiled:
        """Compiles the step for batches of these shapes, which all processes have.

        No process runs it before all of them have compiled it.

        Args:
          state: replicated; it is not donated here.
          batch: sharded, on the devices or not as in later calls.

        Returns:
          The program, which says what memory it needs.
        """
        run, program = _compile(self._on_devices, state, batch, self._each(0))
        self._compiled[shapes(batch)] = run
        return program

    def count_flops(self, state: PyTree, batch: PyTree) -> int:
        """Returns the operations of a step on each device, see `costs.count_flops`.

        Args:
          state: see `compile`.
          batch: see `compile`.
        """
        return costs.count_flops(self._on_devices, state, batch, self._each(0))

    def __call__(self, state: PyTree, batch: PyTree, stop: int) -> tuple[PyTree, Any]:
        """Runs the step; compiles it for new shapes, unless `compile` has.

        Args:
          state: replicated; it is donated.
          batch: sharded.
          stop: the number of the signal that asks this process to stop, or 0.

        Returns:
          (state, metrics), both replicated; metrics["stop"] is the largest of all
          processes.
        """
        if shapes(batch) not in self._compiled:
            self.compile(state, batch)
        return self._compiled[shapes(batch)](state, batch, self._each(stop))

    def _each(self, stop: int) -> np.ndarray:
        return np.full(jax.local_device_count(), stop, np.float32)


def train_step_on_devices(step: Callable) -> TrainStep:
    """Makes a train step run on all devices of all processes.

    The requests to stop of all processes are combined, so that all of them stop at the
    same step.

    Args:
      step: (state, shard of the batch) -> (state, metrics), the same on every device.

    Returns:
      (replicated state, sharded batch, stop) -> (state, metrics), both replicated.
    """

    def with_stop(state, batch, stop):
        state, metrics = step(state, batch)
        return state, metrics | {"stop": lax.pmax(stop, AXIS)}

    on_devices = jax.pmap(
        with_stop,
        AXIS,
        in_axes=(None, 0, 0),
        out_axes=(None, None),
        donate_argnums=0,
    )
    return TrainStep(on_devices)


def map_on_devices(function: Callable) -> Callable:
    """Runs a function of examples on all devices of all processes.

    Args:
      function: (variables, batch, key) -> arrays [b, ...], row by row. It gets images
        in [-1, 1], see `batches.normalise`.

    Returns:
      (variables, batch, key) -> host arrays; batch and result are this process's rows,
      a multiple of the number of its devices. Images of the batch may be bytes.
    """

    def of_batch(variables: PyTree, batch: PyTree, key: Array) -> PyTree:
        return function(variables, batches.normalise(batch), key)

    on_devices = jax.pmap(of_batch, in_axes=(None, 0, None))
    compiled = None

    def run(variables: PyTree, batch: PyTree, key: Array) -> PyTree:
        nonlocal compiled
        args = variables, shard(batch), key
        if compiled is None:
            compiled, _ = _compile(on_devices, *args)
        return jax.tree.map(np.concatenate, jax.device_get(compiled(*args)))

    return run

"""Devices and processes: the only file that distributes work over them.

The same program runs in every process (one per host), and each process drives its local
devices. A batch is split evenly over all devices, in order of process and device;
everything else, such as a training state, is replicated.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

PyTree = Any
AXIS = "batch"

# Seconds. While a command runs together(), its processes meet every ROUND; a process
# that has failed is noticed within one round, one that is dead within ROUND + DEAD.
ROUND = 2
DEAD = 20
# Seconds, limits of jax.distributed: until all processes have started; until JAX aborts
# the processes that a dead one leaves (with a stack dump, hence later than the above);
# until all processes have left, once all of them have finished.
START = 120
HEARTBEAT = 40
SHUTDOWN = 30
# Longer than whatever one process does while the others wait for it at a barrier.
LONGEST_WAIT = 6 * 60 * 60


def initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connects this process to the others of the run.

    Without a coordinator, JAX detects the cluster (Cloud TPU pods, SLURM, Open MPI,
    Kubernetes). A process that has a host for itself uses all devices that it sees;
    processes that share one use a device each.

    Args:
      coordinator: "address:port" of process 0, or None.
      num_processes: number of processes in the run; required with a coordinator.
      process_id: 0..num_processes-1; required with a coordinator.

    Raises:
      ValueError: there is a coordinator, but it has no port, or one of the other two is
        missing or out of range; there is none, and no cluster is detected.
    """
    if coordinator and (num_processes is None or process_id is None):
        raise ValueError(
            "--coordinator also requires --num_processes and --process_id."
        )
    if coordinator and not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id={process_id} is not in 0..{num_processes - 1} "
            f"(--num_processes={num_processes}): give each process its own number."
        )
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(
            f"--coordinator={coordinator} has no port: give ADDRESS:PORT of process 0."
        )
    with _last_words(
        f"The processes of this run did not all connect within {START} s, or one of "
        "them has ended: start every one, and check that they can reach process 0"
        f"{f' at {coordinator}' if coordinator else ''}."
    ):
        try:
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                # JAX's own choice under SLURM and Open MPI is one device a process.
                local_device_ids=[] if _processes_here() == 1 else None,
                initialization_timeout=START,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=SHUTDOWN,
            )
        except ValueError as error:
            raise ValueError(
                f"This is no cluster that JAX knows ({error}): give --coordinator, "
                "--num_processes and --process_id instead of --distributed."
            ) from error
        jax.devices()  # the processes tell each other about theirs


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Makes all processes of the run end if one of them fails or dies.

    Wrap a whole command in it, after `initialize`. If the command raises, its error is
    printed as the interpreter does (SystemExit has its exit code), and the process
    exits at once, without waiting for the others at JAX's exit. The others exit with
    code 1, and the last thing they print is a sentence that says why. A single process
    is not affected.

    Raises:
      ValueError: JAX does not use as many GPUs as SLURM gave to this host; with
        several processes this ends them as other errors do.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        _check_devices()
        yield
        return
    leaving = threading.Event()
    watcher = threading.Thread(target=_watch, args=(leaving,), daemon=True)
    watcher.start()
    try:
        with _last_words(
            "A process of this run has failed or was killed, so all of them end: see "
            "what it printed, and start all of them again with the same command; "
            "training resumes from the last checkpoint."
        ):
            try:
                _check_devices()
                yield
                barrier("end")
            except jax.errors.JaxRuntimeError:
                # Perhaps the end of another process, which the watcher will notice.
                watcher.join(ROUND + DEAD + 1)
                raise
        leaving.set()
        watcher.join()
    except BaseException as error:
        code = _print_error(error)
        leaving.set()
        watcher.join()
        if jax.process_index() == 0:
            time.sleep(2 * ROUND)  # without process 0 the others would be aborted
        os._exit(code)


def _watch(leaving: threading.Event) -> None:
    """Meets the other processes in rounds; exits if one of them does not come."""
    meet = multihost.get_barrier_sync_fn()
    try:
        while not leaving.wait(ROUND):
            meet(key="alive", timeout_ms=DEAD * 1000)
    except jax.errors.JaxRuntimeError:
        if not leaving.wait(1):  # the end of all, a little later in this process
            sys.stdout.flush()
            os._exit(1)
    # The next round fails for those that do not leave as well.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        meet(key="alive", timeout_ms=1)


@contextlib.contextmanager
def _last_words(sentence: str) -> Iterator[None]:
    """Has a sentence printed if the process ends within the block.

    JAX's runtime aborts processes without an exception, and so does SIGKILL. A shell
    prints the sentence when its input is closed before it has got a line.
    """
    script = 'trap "" HUP INT TERM; read -r _ || printf "%s\\n" "$0" >&2'
    shell = subprocess.Popen(["sh", "-c", script, sentence], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        shell.communicate(b"\n")


def _print_error(error: BaseException) -> int:
    """Prints an error as the interpreter does; returns the exit code."""
    code = error.code if isinstance(error, SystemExit) else 1
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    elif code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


def _processes_here() -> int:
    """Returns how many processes Open MPI or SLURM has started on this host."""
    env = os.environ
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in env:
        return int(env["OMPI_COMM_WORLD_LOCAL_SIZE"])
    nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
    return -(-int(env.get("SLURM_NTASKS") or 1) // nodes)


def _check_devices() -> None:
    """Raises ValueError unless JAX uses all GPUs that SLURM gave to this host."""
    given = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    if not given or not jax.distributed.is_initialized():
        return
    devices, processes = jax.local_devices(), _processes_here()
    if devices[0].platform != "gpu" or len(devices) * processes != given:
        raise ValueError(
            f"SLURM gave {socket.gethostname()} {given} GPUs for {processes} "
            f"process{'' if processes == 1 else 'es'}, but JAX sees {len(devices)} "
            f"{devices[0].platform} device{'' if len(devices) == 1 else 's'} in this "
            "one: install JAX for the node's driver (EXTRAS=cuda12 or cuda13), or ask "
            "for as many GPUs as the node has (--gpus-per-node), with one process for "
            "all of them or one for each (--ntasks-per-node)."
        )


def on_pod() -> bool:
    """Returns whether this process is one of several workers of a Cloud TPU pod."""
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def describe() -> str:
    """Describes the devices, e.g. "2 cpu devices" or "8 of 32 TPU v4 devices"."""
    local, total = jax.local_device_count(), jax.device_count()
    number = str(total) if local == total else f"{local} of {total}"
    plural = "" if total == 1 else "s"
    return f"{number} {jax.devices()[0].device_kind} device{plural}"


def process_index() -> int:
    """Returns the number of this process; process 0 writes the logs."""
    return jax.process_index()


def process_count() -> int:
    """Returns the number of processes in the run."""
    return jax.process_count()


def check_batch_size(batch_size: int, name: str, parts: int = 1) -> None:
    """Raises ValueError unless a batch splits evenly over all devices.

    Args:
      batch_size: over all devices of all processes.
      name: the config key, for the message.
      parts: number of parts that each device's share is split into.
    """
    if batch_size % (jax.device_count() * parts):
        shares = f" in {parts} parts" if parts > 1 else ""
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


def mean(tree: PyTree, axis: str | None) -> PyTree:
    """Averages over the devices of a named axis; returns the tree if axis is None."""
    return tree if axis is None else lax.pmean(tree, axis)


def gather(tree: PyTree, axis: str | None) -> PyTree:
    """Concatenates the devices' rows in order, [b, ...] -> [B, ...], on every device.

    Returns the tree if axis is None.
    """
    if axis is None:
        return tree
    return jax.tree.map(lambda x: lax.all_gather(x, axis, tiled=True), tree)


def replicate(tree: PyTree) -> PyTree:
    """Copies a tree to every device of this process, without adding an axis.

    The copies share no buffer with the argument, so they can be donated.
    """
    sharding = NamedSharding(Mesh(jax.local_devices(), AXIS), PartitionSpec())
    return jax.device_put(jax.tree.map(jnp.copy, tree), sharding)


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


def local_rows(x: np.ndarray) -> np.ndarray:
    """Returns this process's share of a global batch [B, ...], contiguous rows."""
    return np.split(x, jax.process_count())[jax.process_index()]


def all_rows(tree: PyTree) -> PyTree:
    """Concatenates the rows of host arrays [b, ...] of all processes, in order."""
    if jax.process_count() == 1:
        return tree
    barrier("all rows are computed")
    return multihost_utils.process_allgather(tree, tiled=True)


def _compile_together(on_devices: Callable) -> Callable:
    """Lets no process run a function before all of them have compiled it.

    A collective waits for the other processes only for a while (on CPUs 30 s), and with
    a warm compilation cache one process is ready long before the others.
    """
    if jax.process_count() == 1:
        return on_devices
    compiled = False

    def run(*args):
        nonlocal compiled
        if not compiled:
            on_devices.lower(*args).compile()  # the call below finds it in JAX's cache
            barrier("compiled")
            compiled = True
        return on_devices(*args)

    return run


def train_step_on_devices(step: Callable) -> Callable:
    """Runs a train step on all devices of all processes.

    The stop flags of all processes are combined, so that all of them stop at the same
    step.

    Args:
      step: (state, shard of the batch) -> (state, metrics), the same on every device.

    Returns:
      (replicated state, sharded batch, whether to stop) -> (state, metrics), both
      replicated; metrics["stop"] > 0 if any process should stop. The input state is
      donated.
    """

    def with_stop(state, batch, stop):
        state, metrics = step(state, batch)
        return state, metrics | {"stop": lax.pmax(stop, AXIS)}

    on_devices = _compile_together(
        jax.pmap(
            with_stop,
            AXIS,
            in_axes=(None, 0, 0),
            out_axes=(None, None),
            donate_argnums=0,
        )
    )

    def run(state, batch, stop: bool):
        return on_devices(
            state, batch, np.full(jax.local_device_count(), stop, np.float32)
        )

    return run


def map_on_devices(function: Callable) -> Callable:
    """Runs a function of examples on all devices of all processes.

    Args:
      function: (variables, batch, key) -> arrays [b, ...], row by row.

    Returns:
      (variables, batch, key) -> host arrays; batch and result are this process's rows,
      a multiple of the number of its devices.
    """
    on_devices = _compile_together(jax.pmap(function, in_axes=(None, 0, None)))

    def run(variables: PyTree, batch: PyTree, key: Array) -> PyTree:
        result = jax.device_get(on_devices(variables, shard(batch), key))
        return jax.tree.map(np.concatenate, result)

    return run

"""The processes of a run, one per host: they connect, and they end together."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
from orbax.checkpoint import multihost

from diffusion_jax.training import parallel

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
      ValueError: only some of the three are given, the coordinator has no port, a
        number is out of range, or none is given and no cluster is detected.
    """
    if not coordinator and (num_processes, process_id) != (None, None):
        raise ValueError(
            "--num_processes and --process_id require --coordinator=ADDRESS:PORT."
        )
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
            if coordinator:
                raise
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
                parallel.barrier("end")
                leaving.set()  # before the others can leave
            except jax.errors.JaxRuntimeError:
                # Perhaps the end of another process, which the watcher will notice.
                watcher.join(ROUND + DEAD + 5)
                raise
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

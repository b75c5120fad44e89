"""Programs that run in turn, each in a process of its own that waits meanwhile."""

import functools
import importlib
import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple


class Program(NamedTuple):
    """Something to measure.

    Attributes:
      run: runs it a number of times and waits for the results.
      info: what to report of it, such as its number of parameters.
      memory: returns the most memory that it has used so far, in bytes.
    """

    run: Callable[[int], None]
    info: dict[str, Any]
    memory: Callable[[], int]


def process_memory() -> int:
    """Returns the most memory that this process has used so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Timing(NamedTuple):
    """Seconds of one run: on the clock, and of user CPU time in all threads."""

    wall: float
    user: float


class Worker:
    """A process that holds a program and runs it on request.

    Args:
      factory: "module:function"; the process imports it and calls it.
      arguments: of the function.
      environment: variables to set before anything is imported.

    Raises:
      RuntimeError: the process failed; the message has its traceback.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ):
        context = multiprocessing.get_context("spawn")
        self.first_seconds: float | None = None  # of the first run, if it was timed
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, factory, dict(arguments), dict(environment or {})),
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """The program's info; waits until the program has been made."""
        return self._receive()

    def run(self, times: int) -> Timing:
        """Runs the program; returns the seconds of one run, averaged over `times`."""
        _ = self.info  # waits until the program has been made
        self._connection.send(times)
        wall, user = self._receive()
        return Timing(wall / times, user / times)

    def memory(self) -> int:
        """Returns the most memory that the program has used so far, in bytes."""
        self._connection.send(None)
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"A worker ended with exit code {code}.") from None
        if kind == "error":
            self.close()
            raise RuntimeError(f"A worker failed:\n{value}")
        return value


def _serve(
    connection: Connection,
    factory: str,
    arguments: dict[str, Any],
    environment: dict[str, str],
) -> None:
    """Answers the requests of a `Worker` until it closes the connection."""
    os.environ.update(environment)
    try:
        module, name = factory.split(":")
        program = getattr(importlib.import_module(module), name)(**arguments)
        connection.send(("made", program.info))
        while True:
            times = connection.recv()
            if times is None:
                connection.send(("memory", program.memory()))
                continue
            user = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            start = time.perf_counter()
            program.run(times)
            wall = time.perf_counter() - start
            user = resource.getrusage(resource.RUSAGE_SELF).ru_utime - user
            connection.send(("ran", (wall, user)))
    except EOFError:
        return  # the worker has closed the connection
    except Exception:
        connection.send(("error", traceback.format_exc()))


def in_turn(
    workers: Sequence[Worker], rounds: int, seconds: float
) -> list[list[Timing]]:
    """Measures programs A, B, ... in the order A B ... A B ...

    Args:
      workers: of the programs.
      rounds: turns of each.
      seconds: a turn's length; at least one run.

    Returns:
      For each worker the timings of its turns, in order.
    """
    for worker in workers:  # compiles, or allocates
        worker.first_seconds = worker.run(1).wall
    once = [worker.run(1) for worker in workers]
    times = [max(1, round(seconds / timing.wall)) for timing in once]
    turns = [once] if max(times) == 1 else []  # long runs are not wasted
    while len(turns) < rounds:
        turns.append([worker.run(n) for worker, n in zip(workers, times)])
    return [list(timings) for timings in zip(*turns)]

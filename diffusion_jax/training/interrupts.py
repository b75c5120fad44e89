"""Signals that ask the program to stop: SIGTERM, Ctrl-C and a closed terminal.

The first one is a request: whatever runs batch after batch saves what it has and stops
after the current batch. The second one changes nothing, since a scheduler may send two
and the first may still be saving. The third one ends the process at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np

from diffusion_jax.training import parallel

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_received: list[int] = []  # the signals since `handled` was entered


class Stopped(Exception):
    """Work was stopped by a signal, after a batch."""

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.number = number


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handles the signals within a `with` statement.

    A signal that the parent process has disabled (with nohup, for example) stays so.
    Outside the main thread, where Python handles no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {n: old for n, old in before.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _receive)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def requested() -> int:
    """Returns the signal that asked this process to stop, or 0."""
    return _received[0] if _received else 0


def check() -> None:
    """Raises Stopped in every process if any process has been asked to stop.

    Every process has to call this the same number of times.
    """
    number = int(parallel.all_rows(np.array([requested()])).max())
    if number:
        raise Stopped(number)


def _receive(number: int, frame: object) -> None:
    _received.append(number)
    name = signal.Signals(number).name
    texts = {1: f"{name}: stopping after this batch", 2: f"{name} again: still saving"}
    if len(_received) not in texts:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    # Not by print or a logger: the signal may have interrupted just that.
    os.write(2, f"{texts[len(_received)]} (the third signal kills).\n".encode())

"""Signals that ask the program to stop: SIGTERM, Ctrl-C and a closed terminal.

The first one is a request: whatever runs batch after batch saves what it has and stops
after the current batch. The second one changes nothing, since a scheduler may send two
and the first may still be saving. The third one ends the process at once, with exit
code 128 + N, even while it compiles.
"""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from diffusion_jax.training import parallel

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
END = 0  # no signal has this number

_received: list[int] = []  # the signals since `handled` was entered


class Stopped(Exception):
    """Work was stopped by a signal, after a batch."""

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.number = number


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handles the signals within a `with` statement.

    Nested calls only install the handlers again.

    A signal that the parent process has disabled (with nohup, for example) stays so.
    Outside the main thread, where Python handles no signals, this does nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if not is_main or _receive in before.values():
        for number, handler in before.items():
            if handler is _receive:  # JAX may have replaced it outside Python
                signal.signal(number, _receive)
        yield
        return
    _received.clear()
    before = {n: old for n, old in before.items() if old is not signal.SIG_IGN}
    # Python calls a handler when the main thread returns from what it is doing, and
    # once for several signals. The pipe receives the number of each, without delay.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fd_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
    watcher.start()
    for number in before:
        signal.signal(number, _receive)
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) is _receive:
                signal.signal(number, old)
        _received.clear()
        signal.set_wakeup_fd(fd_before)
        os.write(writer, bytes([END]))
        watcher.join()
        os.close(reader)
        os.close(writer)


def handle_until_exit() -> None:
    """Handles the signals until the process ends.

    While Python shuts down they are ignored: a late one changes no exit code.
    """
    stack = contextlib.ExitStack()
    stack.enter_context(handled())
    atexit.register(_ignore, stack)  # which keeps it alive


def requested() -> int:
    """Returns the signal that asked this process to stop, or 0."""
    return _received[0] if _received else 0


def check() -> None:
    """Raises Stopped in every process if any process has been asked to stop.

    Every process has to call this the same number of times.
    """
    number = parallel.largest(requested())
    if number:
        raise Stopped(number)


def _receive(number: int, frame: object) -> None:
    _received.append(number)


def _watch(reader: int) -> None:
    """Answers each signal; ends the process at the third one."""
    count = 0
    while True:
        for number in os.read(reader, 100):
            if number == END:
                return
            if number not in SIGNALS:
                continue
            count += 1
            if count == 3:
                os._exit(128 + number)
            name = signal.Signals(number).name
            text = f"{name}: stopping after this batch"
            if count == 2:
                text = f"{name} again: still saving"
            # Not by print or a logger: the main thread may hold their locks.
            os.write(2, f"{text} (the third signal kills).\n".encode())


def _ignore(stack: contextlib.ExitStack) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

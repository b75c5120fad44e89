"""Progress of long computations: a bar on a terminal, lines in a file."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

EVERY = 30.0  # seconds between two lines in a file


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises the error, before which training saves, where rich would exit."""
        raise  # the BrokenPipeError that is being handled


CONSOLE = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)  # stdout
OPTIONS = {"console": CONSOLE, "transient": True, "speed_estimate_period": 3600.0}

_displays: list[Progress] = []  # the one that is on the terminal, if there is one
_settings = {"bars": False, "lines": True}


class Handler(logging.Handler):
    """Prints the log above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        try:
            CONSOLE.print(self.format(record))
        except Exception:  # such as a character that the terminal cannot show
            self.handleError(record)


def show(enabled: bool) -> None:
    """Turns bars and lines on or off. Without a call, only training prints lines."""
    _settings.update(bars=enabled, lines=enabled)


def line(text: str, is_last: bool) -> None:
    """Prints a line, which replaces the one before it on a terminal.

    Args:
      text: the line.
      is_last: whether the line stays.
    """
    if _settings["lines"]:
        end = "\r" if CONSOLE.is_terminal and not is_last else "\n"
        CONSOLE.print(f"{text:<72}" if CONSOLE.is_terminal else text, end=end)


@contextlib.contextmanager
def bar(
    what: str, total: int, is_shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of the work within a `with` statement.

    A bar on a terminal disappears at the end. A file gets a line if the work takes
    longer than EVERY seconds. The time left does not count the first advance, which
    compiles.

    Args:
      what: the work, such as "Sampling".
      total: number of examples.
      is_shown: False in all processes but one.

    Yields:
      A function that takes how many more examples are done.
    """
    if not (_settings["bars"] and is_shown):
        yield lambda num: None
    elif not CONSOLE.is_terminal:
        yield _Lines(what, total).advance
    elif _displays:
        yield from _add(_displays[0], what, total)
    else:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        left = TimeRemainingColumn(), TextColumn("left")
        with Progress(*columns, *left, **OPTIONS) as display:
            _displays.append(display)
            try:
                yield from _add(display, what, total)
            finally:
                _displays.clear()


@contextlib.contextmanager
def waiting(what: str, is_shown: bool = True) -> Iterator[None]:
    """Prints every EVERY seconds how long the work of a `with` statement has taken.

    Args:
      what: the work, such as "Compiling".
      is_shown: False in all processes but one.
    """
    done, start = threading.Event(), time.monotonic()

    def remind() -> None:
        while not done.wait(EVERY):
            CONSOLE.print(f"{what}: {clock(time.monotonic() - start)} so far")

    if not (_settings["bars"] and is_shown):
        yield
        return
    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _add(display: Progress, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Adds a bar to a display, until the work is done."""
    task = display.add_task(what, total=total)
    try:
        yield lambda num: display.advance(task, num)
    finally:
        display.remove_task(task)


class _Lines:
    """Prints "Sampling: 640 of 2000, 1:20 left" every EVERY seconds."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._shown = time.monotonic()
        self._first: tuple[int, float] | None = None  # number and time
        self._done = 0

    def advance(self, num: int) -> None:
        """Counts examples that are done, and prints a line if it is due."""
        now = time.monotonic()
        self._done += num
        if self._first is None:
            self._first = self._done, now
            return
        if now - self._shown < EVERY or self._done >= self._total:
            return
        self._shown, (done, start) = now, self._first
        seconds = (self._total - self._done) * (now - start) / (self._done - done)
        left = f"{clock(seconds)} left"
        CONSOLE.print(f"{self._what}: {self._done} of {self._total}, {left}")


def clock(seconds: float) -> str:
    """Returns a duration as 0:42, 1:02:03 or 3 days."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def in_words(seconds: float) -> str:
    """Returns a duration as "20 seconds", "12 minutes", "3.5 hours" or "4.2 days"."""
    if seconds < 59.5:
        return f"{seconds:.0f} seconds"
    if seconds < 100 * 60:
        minutes = f"{seconds / 60:.0f}"
        return "1 minute" if minutes == "1" else f"{minutes} minutes"
    value, unit = seconds / 3600, "hours"
    if value >= 48:
        value, unit = value / 24, "days"
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"

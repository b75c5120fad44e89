"""Shows how far long work is: a bar on a terminal, now and then a line in a file."""

import contextlib
import logging
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

CONSOLE = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)  # stdout
OPTIONS = {"console": CONSOLE, "transient": True, "speed_estimate_period": 3600.0}

_displays: list[Progress] = []  # the one that is on the terminal, if there is one
_settings = {"bars": False, "lines": True}


class Handler(logging.Handler):
    """Prints the log above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        CONSOLE.print(self.format(record))


def show(everything: bool) -> None:
    """Sets whether progress is shown. Without it there are only lines of training.

    Args:
      everything: bars and lines, or nothing.
    """
    _settings.update(bars=everything, lines=everything)


def line(text: str, is_last: bool) -> None:
    """Prints a line, which replaces the one before it on a terminal.

    Args:
      text: the line.
      is_last: whether the line stays.
    """
    if _settings["lines"]:
        end = "\r" if CONSOLE.is_terminal and not is_last else "\n"
        CONSOLE.print(f"{text:<72}", end=end)


@contextlib.contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows the progress of the work within a `with` statement.

    A bar on a terminal disappears at the end. A file gets a line if the work takes
    longer than EVERY seconds. The time left does not count the first advance, which
    compiles.

    Args:
      what: the work, such as "Sampling".
      total: number of examples.

    Yields:
      A function that takes how many more examples are done.
    """
    if not _settings["bars"]:
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
        line = f"{self._what}: {self._done} of {self._total}, {clock(seconds)} left"
        CONSOLE.print(line)


def clock(seconds: float) -> str:
    """Returns a duration as 0:42, 1:02:03 or 3 days."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

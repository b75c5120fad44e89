"""Laws of the progress: what it prints, and when."""

import itertools
import time
import types

import numpy as np
import pytest

from diffusion_jax import inference, progress
from diffusion_jax.data.base import Range
from diffusion_jax.methods import Task


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    monkeypatch.setattr(progress, "_settings", {})
    progress.show(True)


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (3723, "1:02:03"),
        (47.9 * 3600, "47:54:00"),
        (9 * 86400, "9 days"),
    ],
)
def test_clock(seconds, words):
    """Durations are minutes, hours or days."""
    assert progress.clock(seconds) == words


def test_a_file_gets_lines_of_long_work(capsys, monkeypatch):
    """A line every half minute says what is done and, from the rate after the first
    batch, how long the rest takes; work that ends sooner gets none."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar("Sampling", 100) as advance:
        for _ in range(10):
            now[0] += 100 if now[0] == 0 else 10  # the first batch compiles
            advance(10)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Sampling: 20 of 100, 1:20 left",
        "Sampling: 50 of 100, 0:50 left",
        "Sampling: 80 of 100, 0:20 left",
    ]
    with progress.bar("Sampling", 2) as advance:
        advance(1)
        advance(1)
    assert not capsys.readouterr().out


def test_waiting_says_how_long(capsys, monkeypatch):
    """Work whose progress is unknown gets a line now and then, and none after it."""
    now = itertools.count(0, 30)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with progress.waiting("Compiling"):
        time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    expected = [f"Compiling: {x} so far" for x in ("0:30", "1:00", "1:30", "2:00")]
    assert lines and lines == expected[: len(lines)]
    time.sleep(0.1)
    assert not capsys.readouterr().out


def test_nothing_is_shown_if_quiet(capsys, monkeypatch):
    """Quiet commands print neither bars nor lines."""
    progress.show(False)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with progress.waiting("Compiling"):
        time.sleep(0.05)
    progress.line("step 1", is_last=True)
    with progress.bar("Sampling", 2) as advance:
        advance(2)
    assert not capsys.readouterr().out


def test_bars_of_a_terminal_disappear(capsys, monkeypatch):
    """Bars within bars are drawn on a terminal, messages appear above them, and no bar
    is left."""
    console = progress.Console(force_terminal=True, soft_wrap=True)
    monkeypatch.setattr(progress, "CONSOLE", console)
    monkeypatch.setitem(progress.OPTIONS, "console", console)
    with progress.bar("Sampling", 2) as advance:
        with progress.bar("Features", 2) as inner:
            inner(2)
        advance(2)
        console.print("a message")
    text = capsys.readouterr().out
    assert "Sampling" in text and "Features" in text
    erased = "\x1b[2K"  # the line of the cursor
    assert text.rindex(erased) > text.rindex("Sampling")
    assert "a message" in text


@pytest.mark.parametrize("seconds, is_long", [(0.1, False), (1.0, True)])
def test_long_work_is_announced(monkeypatch, caplog, seconds, is_long):
    """After the second batch, once, with the duration of all and what shortens it."""
    caplog.set_level("INFO")
    now = iter(np.arange(100.0) * 10 * seconds)  # one look at the clock per batch
    clock = types.SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr(inference, "time", clock)
    task = Task(lambda variables, batch, key: batch, ("index",), {})
    stream = inference.make_stream(task, 8, 0, "Running sample", "Draw fewer.")
    list(stream({}, Range(800), 800))
    said = [x.getMessage() for x in caplog.records if "examples take" in x.getMessage()]
    minutes = "17 minutes" if is_long else ""
    expected = f"Running sample: 800 examples take about {minutes} here. Draw fewer."
    assert said == [expected] * is_long


def test_compiling_is_announced_once(caplog):
    """Before the first batch of a stream, and not when it runs again."""
    caplog.set_level("INFO")
    task = Task(lambda variables, batch, key: batch, ("index",), {})
    stream = inference.make_stream(task, 8, 0, "Running sample")
    for _ in range(2):
        list(stream({}, Range(8), 8))
    assert caplog.messages.count("Running sample: compiling.") == 1

"""Laws of the progress: what it prints, and when."""

import pytest

from diffusion_jax import progress


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


def test_nothing_is_shown_if_quiet(capsys):
    """Quiet commands print neither bars nor lines."""
    progress.show(False)
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

"""Programs run in turn, in processes of their own."""

import pathlib
import time

import pytest

from benchmarks import turns
from benchmarks.turns import Program, Worker


def sleeping(seconds, log):
    """Sleeps, and notes each run in a file."""

    def run(times):
        with open(log, "a") as file:
            file.write(f"{seconds} x {times}\n")
        time.sleep(seconds * times)

    return Program(run, {"seconds": seconds}, turns.process_memory)


def failing():
    """Fails when it is made."""
    raise ZeroDivisionError("on purpose")


def test_order_and_times(tmp_path):
    """After two warm-ups A and B alternate, and a turn has the length asked for."""
    log = tmp_path / "log"
    here = f"{__name__}:sleeping"
    a, b = (
        Worker(here, {"seconds": x, "log": log}, {"PYTHONPATH": ""}) for x in (0.1, 0.2)
    )
    with a, b:
        assert (a.info["seconds"], b.info["seconds"]) == (0.1, 0.2)
        found = turns.in_turn([a, b], rounds=3, seconds=0.4)
        assert a.memory() > 1e6
    warm_up = ["0.1 x 1", "0.2 x 1"] * 2
    lines = pathlib.Path(log).read_text().splitlines()
    assert lines[:4] == warm_up
    assert [x.split()[0] for x in lines[4:]] == ["0.1", "0.2"] * 3
    assert [len(x) for x in found] == [3, 3]
    for seconds, timings in zip((0.1, 0.2), found):
        assert all(seconds <= x.wall < 10 * seconds and x.user < 0.1 for x in timings)


def test_a_failure_is_explained():
    """The error of a worker's process reaches the caller with its traceback."""
    with Worker(f"{__name__}:failing", {}) as worker:
        with pytest.raises(RuntimeError, match="on purpose"):
            _ = worker.info

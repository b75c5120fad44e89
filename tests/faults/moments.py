"""Moments of a training run, found by what it has written so far."""

import pathlib
import time
from collections.abc import Callable

from harness import LOOK_EVERY, Place, Process, last_logged, steps

# Two moments of a new run, and eight of one that goes on, which are shuffled.
FIRST = ["before the first checkpoint", "starting"]
LATER = ["starting", "anywhere", *["saving", "evaluating", "drawing"] * 2]


def ten(place: Place) -> list[str]:
    """Returns ten moments in a random order."""
    later = LATER[:]
    place.random.shuffle(later)
    return FIRST + later


def await_moment(
    place: Place, process: Process, workdir: pathlib.Path, moment: str
) -> bool:
    """Waits for a random moment of a kind; returns whether the process still runs."""
    start = max(steps(workdir), default=0)
    goal = start + place.random.randint(1, LOOK_EVERY)

    def due() -> list[int]:
        return [x for x in steps(workdir) if x % LOOK_EVERY == 0]

    def is_evaluating() -> bool:
        score = workdir / f"checkpoints/{max(due(), default=0)}/score.json"
        return bool(due()) and not score.exists()

    def is_drawing() -> bool:
        step = max(due(), default=0)
        is_scored = (workdir / f"checkpoints/{step}/score.json").exists()
        return is_scored and not (workdir / f"samples/{step:08}.png").exists()

    conditions = {
        "starting": lambda: True,
        "before the first checkpoint": lambda: True,
        "anywhere": lambda: last_logged(workdir) >= goal,
        "saving": lambda: [*workdir.glob("checkpoints/*checkpoint-tmp*")],
        "evaluating": is_evaluating,
        "drawing": is_drawing,
    }
    longest = 1.5  # seconds; starting takes about 3
    if moment != "starting":
        longest = 0.05
        process.wait_until(lambda: "parameters, on" in process.stdout)
    process.wait_until(conditions[moment])
    delay = place.random.uniform(0, longest)
    process.wait_until(_after(delay))
    return process.is_running


def _after(seconds: float) -> Callable[[], bool]:
    """Returns whether some time has passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end

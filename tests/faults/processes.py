"""Several processes and one workdir."""

import signal
import time

from harness import (
    END_WITHIN,
    LONG,
    Place,
    check,
    check_same_end,
    check_sentence,
    last_logged,
    records,
)


def two_trainings(place: Place) -> str:
    """a second training in a workdir is refused at once and names the first"""
    workdir = place.new("two")
    first = place.start(workdir, values=LONG)
    first.wait_until(lambda: last_logged(workdir) > 0)
    before = (workdir / "config.json").read_bytes()
    second = place.start(workdir, values={"train.num_steps": 5}).finish(END_WITHIN)
    check_sentence(second, (1, 2), f"process {first.pid} on ", str(workdir))
    check((workdir / "config.json").read_bytes() == before, "config.json has changed")
    check(first.is_running, "the first has ended")
    third = place.start(workdir, "--mode=sample", f"--output={place.new('output')}")
    sampled = third.finish()
    check(sampled.code == 0, f"sample beside it: {sampled.summary}")
    first.send(signal.SIGTERM)
    ended = first.finish(END_WITHIN)
    check(ended.code == 0, f"the first: {ended.summary}")
    logged = [x["step"] for x in records(workdir) if "loss" in x]
    check(logged == list(range(1, len(logged) + 1)), "the log has steps twice")
    check(not (workdir / "lock").exists(), "the lock is left behind")
    return second.summary


def both_at_once(place: Place) -> str:
    """of two trainings that start together one is refused, the other ends well"""
    workdir = place.new("both")
    both = [place.start(workdir) for _ in range(2)]
    ended = sorted(process.finish() for process in both)
    check([x.code for x in ended] == [0, 1], [x.summary for x in ended])
    check_sentence(ended[1], (1,), "Another training runs in")
    check_same_end(workdir, place.calm)
    return ended[1].summary


def restart_after_kill(place: Place) -> str:
    """the lock of a killed process is free at once"""
    workdir = place.new("restart")
    first = place.start(workdir)
    first.wait_until(lambda: last_logged(workdir) > 10)
    first.send(signal.SIGKILL)
    since = time.monotonic()
    second = place.start(workdir)
    second.wait_until(lambda: "parameters, on" in second.stdout)
    seconds = time.monotonic() - since
    ended = second.finish()
    check(ended.code == 0, ended.summary)
    check(seconds < 15, f"it started after {seconds:.0f} s")
    check_same_end(workdir, place.calm)
    return f"it trained after {seconds:.1f} s, the end is equal"


FAULTS = {
    "two_trainings": two_trainings,
    "two_at_once": both_at_once,
    "restart_after_kill": restart_after_kill,
}

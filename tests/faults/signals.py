"""Signals that ask the program to stop."""

import collections
import signal
import time

import moments
from harness import (
    END_WITHIN,
    LONG,
    Place,
    check,
    check_same_end,
    last_logged,
    steps,
)

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = 3.0  # seconds


def ten_signals(place: Place) -> str:
    """ten signals in a row, some doubled, lose nothing: code 0, last step saved

    SIGTERM, SIGINT and SIGHUP at random moments, one or two within 50 ms. What is saved
    at each stop is the last step done, and in the end state and log equal those of an
    undisturbed run. Before the first line of work a signal ends the program as any
    other, and nothing has been written.
    """
    workdir = place.new("signals")
    hit, early = collections.Counter(), 0
    for number, moment in enumerate(moments.ten(place)):
        process = place.start(workdir)
        moments.await_moment(place, process, workdir, moment)
        is_working = process.is_working
        if not process.is_running:
            continue
        hit[moment] += 1
        process.send(place.random.choice(STOPS))
        if number % 2:
            time.sleep(place.random.uniform(0, 0.05))
            process.send(place.random.choice(STOPS))
        ended = process.finish(END_WITHIN)
        if not is_working and ended.code < 0:
            early += 1
            continue
        check(ended.code == 0, f"{moment}: {ended.summary}")
        check("Traceback" not in ended.stderr, ended.stderr[-300:])
        saved, logged = max(steps(workdir), default=0), last_logged(workdir)
        check(saved == logged, f"{moment}: step {saved} is saved, {logged} was done")
    ended = place.run(workdir)
    check(ended.code == 0, ended.summary)
    check_same_end(workdir, place.calm)
    check(hit.total() == 10, f"only {hit.total()} signals: the run is too short")
    seen = "equal after " + ", ".join(f"{n} {name}" for name, n in hit.items())
    return seen + (f" ({early} before the first line of work)" if early else "")


def third_signal(place: Place) -> str:
    """the third signal ends the process at once, also while it compiles"""
    seen = []
    for name, config in (("stepping", None), ("compiling", "configs/digits.py")):
        options = {"values": LONG}
        if config:  # with nothing compiled before
            env = {"JAX_COMPILATION_CACHE_DIR": str(place.new("compiled"))}
            options = {"config": config, "env": env}
        process = place.start(place.new("third"), **options)
        process.wait_until(lambda: "parameters, on" in process.stdout)  # noqa: B023
        time.sleep(1.0)
        for _ in range(3):
            if process.is_running:
                process.send(signal.SIGTERM)
                time.sleep(0.02)
        ended = process.finish(END_WITHIN)
        seen.append(f"{name}: exit code {ended.code} after {ended.seconds:.1f} s")
        check(ended.seconds < AT_ONCE, seen[-1])
        check(ended.code in (0, 128 + signal.SIGTERM), seen[-1])
        if name == "compiling":
            check(ended.code == 128 + signal.SIGTERM, seen[-1])
    return ", ".join(seen)


def signal_while_sampling(place: Place) -> str:
    """a signal ends sampling and evaluating within seconds, exit code 128 + N"""
    workdir = place.partly_trained("sampling")
    seen = []
    for mode, key in (
        ("sample", "sample.num_examples"),
        ("evaluate", "eval.batch_size"),
    ):
        values = {"sample.num_examples": 2_000_000}
        if mode == "evaluate":
            values = {"eval.num_importance": 1_000_000, "eval.batch_size": 1}
        for number in STOPS:
            process = place.start(workdir, f"--mode={mode}", values=values)
            process.wait_until(lambda: process.is_working)  # noqa: B023
            time.sleep(place.random.uniform(0.5, 2.5))
            check(process.is_running, f"{mode}: ended before the signal ({key})")
            process.send(number)
            ended = process.finish(END_WITHIN)
            seen.append(f"{mode} {ended.code} after {ended.seconds:.1f} s")
            check(ended.code == 128 + number, f"{seen[-1]}: {ended.stderr[-200:]}")
            check("Traceback" not in ended.stderr, ended.stderr[-300:])
            check(not (workdir / "sample.npz").exists(), "a part was written")
    return ", ".join(seen)

"""Measures the time to the first step and of a whole :tiny run, cold and warm.

    python -m benchmarks.startup --cases digits:first_step digits:tiny \
        cifar10:first_step --against f3c9828

Cold is with an empty cache of compiled programs, warm with what the cold run before it
has left there. CPU seconds are user and system time of all of a run's processes.
Another commit, checked out into a temporary folder, runs in turn with this one.
"""

import argparse
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks import comparisons, measures
from benchmarks.reports import ROOT, Report

NUM_IMAGES = 256  # in the place of data that may not be here
FIRST_STEP = re.compile(r"\bstep 1/1\b")
THIS = "this commit"
COLUMNS = {
    "run": "{case}, {state}",
    "side": "{side}",
    "CPU s (min-max)": "{cpu_shown}",
    "wall s (min-max)": "{wall_shown}",
    "CPU, this/other (min-max)": "{ratio_shown}",
    "wall, this/other": "{wall_ratio_shown}",
}


class Cost(NamedTuple):
    """Seconds of a run: CPU time of all its processes, and on the clock."""

    cpu: float
    wall: float


class Case(NamedTuple):
    """A config, and which part of its run is measured: "first_step" or "tiny"."""

    config: str
    part: str


def parse_case(text: str) -> Case:
    """Turns "digits:first_step" into a case.

    Raises:
      ValueError: the part is unknown.
    """
    config, _, part = text.partition(":")
    if part not in ("first_step", "tiny"):
        raise ValueError(f"{text!r} is neither CONFIG:first_step nor CONFIG:tiny.")
    return Case(config, part)


def main() -> None:
    """Measures every case on both commits."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = [parse_case("digits:first_step"), parse_case("digits:tiny")]
    parser.add_argument("--cases", nargs="+", type=parse_case, default=default)
    parser.add_argument("--against", metavar="COMMIT", help="another commit")
    parser.add_argument("--rounds", type=int, default=3)
    comparisons.add_output(parser)
    arguments = parser.parse_args()
    report = Report("startup", COLUMNS, arguments.json, arguments.output)
    report.header()
    with tempfile.TemporaryDirectory() as scratch:
        trees = {THIS: ROOT}
        if arguments.against:
            other = pathlib.Path(scratch) / "other"
            trees[arguments.against] = check_out(arguments.against, other)
        for case in arguments.cases:
            measure(report, case, trees, arguments.rounds, pathlib.Path(scratch))


def measure(
    report: Report,
    case: Case,
    trees: Mapping[str, pathlib.Path],
    rounds: int,
    scratch: pathlib.Path,
) -> None:
    """Runs a case on each tree in turn, cold and then warm, and reports the costs."""
    command = make_command(case, scratch)
    keys = [(state, side) for state in ("cold", "warm") for side in trees]
    costs: dict[tuple[str, str], list[Cost]] = {key: [] for key in keys}
    for _ in range(rounds):
        for side, tree in trees.items():
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    costs[state, side].append(run(case, command, tree, cache))
    for (state, side), found in costs.items():
        cpu, wall = map(measures.spread, zip(*found, strict=True))
        record = {
            "case": ":".join(case),
            "state": state,
            "side": side,
            "rounds": rounds,
            "cpu_seconds": cpu._asdict(),
            "wall_seconds": wall._asdict(),
            "cpu_shown": "{:.1f} ({:.1f}-{:.1f})".format(*cpu),
            "wall_shown": "{:.1f} ({:.1f}-{:.1f})".format(*wall),
            "ratio_shown": "",
            "wall_ratio_shown": "",
        }
        if side != THIS:
            by_cpu, by_wall = measures.ratios_by_kind(costs[state, THIS], found)
            record |= {
                "ratio": by_cpu._asdict(),
                "wall_ratio": by_wall._asdict(),
                "ratio_shown": "{:.2f} ({:.2f}-{:.2f})".format(*by_cpu),
                "wall_ratio_shown": f"{by_wall.median:.2f}",
            }
        report.add(record)


def make_command(case: Case, scratch: pathlib.Path) -> list[str]:
    """Returns the command of a case, without its folder."""
    command = [sys.executable, "-m", "diffusion_jax.main"]
    path = f"configs/{case.config}.py"
    if case.part == "tiny":
        return [*command, f"--config={path}:tiny"]
    command += [f"--config={path}", "--config.train.num_steps=1"]
    command += [f"--config.train.{x}_every=0" for x in ("log", "evaluate", "sample")]
    data = comparisons.load_config(path, [])["data"]
    if data["source"] != "digits":
        size = data["image_size"]
        shape = NUM_IMAGES, size, data["image_width"] or size, data["num_channels"]
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        np.savez(scratch / f"{case.config}.npz", images=images, test_images=images)
        command.append(f"--config.data.source=npz:{scratch / case.config}.npz")
    return command


def run(case: Case, command: list[str], tree: pathlib.Path, cache: str) -> Cost:
    """Runs a command in a tree; returns its cost, to the first step if that is asked.

    Raises:
      RuntimeError: it failed; the message has its output.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": cache}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as workdir:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={workdir}/run"],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        cost, lines = None, []
        for line in process.stdout:
            lines.append(line)
            if case.part == "first_step" and FIRST_STEP.search(line):
                cost = Cost(session_seconds(process.pid), time.perf_counter() - start)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
    if process.returncode or (case.part == "first_step" and cost is None):
        tail = "".join(lines[-20:])
        raise RuntimeError(
            f"{' '.join(command)} in {tree}: exit code {process.returncode}\n{tail}"
        )
    return cost or Cost(usage.ru_utime + usage.ru_stime, wall)


def session_seconds(session: int) -> float:
    """Returns the CPU seconds of a session's processes so far (on Linux).

    Of a process that has ended its parent tells, once it has waited for it.
    """
    ticks = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            # pid (name) state ppid pgrp session ...; the name may contain spaces.
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(map(int, fields[11:15]))  # utime stime cutime cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def check_out(commit: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes the files of a commit into a new folder, which it returns."""
    folder.mkdir()
    archive = subprocess.Popen(
        ["git", "-C", str(ROOT), "archive", commit], stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], stdin=archive.stdout, check=True)
    if archive.wait():
        raise ValueError(f"git knows no commit {commit!r}.")
    return folder


if __name__ == "__main__":
    main()

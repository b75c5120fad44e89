"""What the commands that compare programs in turn have in common."""

import argparse
import ast
import contextlib
import itertools
import os
import runpy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import measures, turns
from benchmarks.reports import Report
from benchmarks.turns import Timing, Worker
from diffusion_jax.training.costs import PEAK_FLOPS

MODES = ("eager", "compile")
AGAINST = ("torch", "diffusers", "lucidrains")
ENVIRONMENT = {
    # Two runtimes share a GPU: each takes what it needs, not three quarters of it.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # What is compiled here is no part of what is measured.
    "JAX_COMPILATION_CACHE_DIR": os.environ.get(
        "JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/diffusion_jax")
    ),
}
COLUMNS = {
    "program": "{config} {what}",
    "batch": "{batch_size}",
    "dtype": "{dtype}",
    "side": "{side}",
    "parameters": "{parameters:,}",
    "ms": "{milliseconds:.1f}",
    "user CPU ms": "{user_milliseconds:.1f}",
    "images/s": "{images_per_second:.1f}",
    "GFLOP/s": "{gflops_per_second:.1f}",
    "of ceiling": "{share:.0%}",
    "of peak": "{peak_shown}",
    "MB": "{megabytes:.0f}",
    "first run, s": "{first_seconds:.0f}",
    "ours/theirs (min-max)": "{ratio_shown}",
    "by CPU time": "{user_ratio_shown}",
}


def make_parser(description: str) -> argparse.ArgumentParser:
    """Makes a parser with the arguments of every comparison."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--config", nargs="+", default=["configs/digits.py"], help="config files")
    add("--batch_size", nargs="+", type=int, default=[32])
    add("--against", nargs="*", default=[], choices=AGAINST, help="PyTorch networks")
    add("--dtype", nargs="*", default=[], choices=["float32", "bfloat16"])
    add("--modes", nargs="*", default=[], choices=MODES, help="of PyTorch")
    add("--pairs", action="store_true", help="one counterpart at a time")
    add("--rounds", type=int, default=7, help="turns of each side")
    add("--seconds", type=float, default=3.0, help="length of a turn")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change the config")
    add_output(parser)
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say where results go."""
    parser.add_argument("--json", action="store_true", help="print JSON, no table")
    parser.add_argument("--output", help="append JSON lines to this file")


def load_config(path: str, changes: Sequence[str]) -> dict[str, Any]:
    """Loads a config as plain dictionaries.

    Args:
      path: "configs/NAME.py" or "configs/NAME.py:VARIANT".
      changes: "GROUP.KEY=VALUE" each.
    """
    file, _, variant = path.partition(":")
    config = runpy.run_path(file)["get_config"](variant)
    for change in changes:
        key, _, value = change.partition("=")
        with contextlib.suppress(ValueError, SyntaxError):  # a string
            value = ast.literal_eval(value)
        config.update_from_flattened_dict({key: value})
    return config.copy_and_resolve_references().to_dict()


class Ceilings:
    """The rate of large matrix products, by JAX and by PyTorch, measured once.

    Args:
      with_torch: whether PyTorch takes part.
      seconds: length of a measurement.
    """

    def __init__(self, with_torch: bool, seconds: float = 0.5):
        self._modules = ["ours", "pytorch"] if with_torch else ["ours"]
        self._seconds = seconds
        self._found: dict[str, dict[str, float]] = {}
        with Worker("benchmarks.ours:device", {}) as worker:
            self.device, self.kind = worker.info["device"], worker.info["kind"]

    def of(self, dtype: str) -> dict[str, float]:
        """Returns the best of three measurements in GFLOP/s, by name of the library."""
        if dtype not in self._found:
            self._found[dtype] = dict(
                map(lambda m: self._measure(m, dtype), self._modules)
            )
        return self._found[dtype]

    def _measure(self, module: str, dtype: str) -> tuple[str, float]:
        arguments = {"dtype": dtype, "size": 2048 if self.device == "cpu" else 8192}
        factory = f"benchmarks.{module}:product"
        with Worker(factory, arguments, ENVIRONMENT) as worker:
            (timings,) = turns.in_turn([worker], 3, self._seconds)
            rate = worker.info["flops"] / min(x.wall for x in timings)
        return {"ours": "jax"}.get(module, "torch"), rate / 1e9


class Task(NamedTuple):
    """What to measure of a config, a batch size and a dtype.

    Attributes:
      name: shown in the table.
      factory: name of a function in `ours` and in `pytorch`.
      options: further arguments of the function.
    """

    name: str
    factory: str
    options: dict[str, Any]


def run(benchmark: str, tasks: Sequence[Task], arguments: argparse.Namespace) -> None:
    """Measures tasks with every config, batch size and dtype asked for."""
    report = Report(benchmark, COLUMNS, arguments.json, arguments.output)
    ceilings = Ceilings(with_torch=bool(arguments.against))
    report.header(accelerator=ceilings.kind)
    on_cpu = ceilings.device == "cpu"
    dtypes = arguments.dtype or ["float32" if on_cpu else "bfloat16"]
    for dtype in dtypes:
        ceilings.of(dtype)
    modes = arguments.modes or (MODES[:1] if on_cpu else MODES)
    against = list(itertools.product(arguments.against, modes))
    groups = [[x] for x in against] if arguments.pairs and against else [against]
    cases = itertools.product(
        arguments.config, arguments.batch_size, dtypes, tasks, groups
    )
    for path, batch_size, dtype, task, group in cases:
        config = load_config(path, arguments.set)
        compare(
            report,
            task.factory,
            {
                "config": config,
                "batch_size": batch_size,
                "dtype": dtype,
                **task.options,
            },
            {
                "config": config["name"],
                "what": task.name,
                "batch_size": batch_size,
                "dtype": dtype,
            },
            group,
            ceilings,
            arguments.rounds,
            arguments.seconds,
        )


def compare(
    report: Report,
    function: str,
    arguments: Mapping[str, Any],
    record: Mapping[str, Any],
    against: Sequence[tuple[str, str]],
    ceilings: Ceilings,
    rounds: int,
    seconds: float,
) -> None:
    """Runs one program of ours and its counterparts in turn, and reports all of them.

    Args:
      report: gets a record for each side.
      function: name of the program's factory, in `ours` and in `pytorch`.
      arguments: of the factory.
      record: what to report of all sides.
      against: (name of a network in PyTorch, one of MODES) each.
      ceilings: of this machine.
      rounds: turns of each side.
      seconds: length of a turn.

    Raises:
      ValueError: the sides run on different kinds of devices.
    """
    with contextlib.ExitStack() as stack:

        def start(module: str, **more: Any) -> Worker:
            factory = f"benchmarks.{module}:{function}"
            return stack.enter_context(
                Worker(factory, {**arguments, **more}, ENVIRONMENT)
            )

        sides = ["this project"]
        workers = [start("ours")]
        for network, mode in against:
            sides.append(f"{network}, {mode}")
            more = {"network": network, "compiled": mode == "compile"}
            workers.append(start("pytorch", **more))
        timings = turns.in_turn(workers, rounds, seconds)
        for side, worker, theirs in zip(sides, workers, timings, strict=True):
            if (worker.info["device"] == "cpu") != (ceilings.device == "cpu"):
                raise ValueError(
                    f"{side} runs on {worker.info['device']}, but JAX on "
                    f"{ceilings.device}: install builds for the same device."
                )
            shared = {"side": side, **record, **worker.info}
            shared["megabytes"] = worker.memory() / 1e6
            shared["first_seconds"] = worker.first_seconds  # with compilation
            if shared["parameters"] == workers[0].info["parameters"]:
                shared |= {x: workers[0].info[x] for x in ("flops", "flops_by")}
            ours = timings[0] if worker is not workers[0] else None
            report.add(shared | summary(theirs, ours, shared, ceilings))


def summary(
    timings: Sequence[Timing],
    ours: Sequence[Timing] | None,
    record: Mapping[str, Any],
    ceilings: Ceilings,
) -> dict[str, Any]:
    """Summarises the turns of one side.

    Args:
      timings: of this side.
      ours: of our side in the same rounds; None if this is our side.
      record: has batch_size, flops and dtype.
      ceilings: of this machine.

    Returns:
      What is reported. Ratios above 1 mean that ours is faster.
    """
    wall = measures.spread([x.wall for x in timings])
    user = measures.spread([x.user for x in timings])
    rate = record["flops"] / wall.median / 1e9
    ceiling = ceilings.of(record["dtype"])
    in_bfloat16 = record["dtype"] == "bfloat16"
    peak = PEAK_FLOPS.get(ceilings.kind) if in_bfloat16 else None
    found = {
        "rounds": len(timings),
        "milliseconds": 1e3 * wall.median,
        "milliseconds_range": [1e3 * wall.low, 1e3 * wall.high],
        "user_milliseconds": 1e3 * user.median,
        "images_per_second": record["batch_size"] / wall.median,
        "gflops_per_second": rate,
        "ceiling_gflops_per_second": ceiling,
        "share": rate / max(ceiling.values()),
        "peak_gflops_per_second": peak and peak / 1e9,
        "peak_shown": f"{rate / peak * 1e9:.0%}" if peak else "",
        "ratio_shown": "",
        "user_ratio_shown": "",
    }
    if ours is not None:
        by_wall, by_user = measures.ratios_by_kind(timings, ours)
        found |= {
            "ratio": by_wall._asdict(),
            "user_ratio": by_user._asdict(),
            "ratio_shown": "{:.2f} ({:.2f}-{:.2f})".format(*by_wall),
            "user_ratio_shown": f"{by_user.median:.2f}",
        }
    return found

"""Results as JSON lines and as a table, with the machine and the versions."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

PACKAGES = (
    "jax jaxlib flax optax numpy torch diffusers transformers "
    "denoising-diffusion-pytorch"
).split()
ROOT = pathlib.Path(__file__).resolve().parents[1]


def cpu_model() -> str:
    """Returns the processor's name."""
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Returns the processor, and the number of cores that this process may use."""
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0))}


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that are installed."""
    installed = importlib.metadata.packages_distributions().values()
    here = {name for names in installed for name in names}
    packages = {x: importlib.metadata.version(x) for x in PACKAGES if x in here}
    return {"python": platform.python_version()} | packages


def commit() -> str:
    """Returns the commit of the code, with "+" if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return result.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Report:
    """Collects records; shows a row of a Markdown table for each.

    Args:
      benchmark: the command's name.
      columns: column's title -> format of a record, such as "{batch_size}".
      as_json: print JSON lines instead of the table.
      output: a file to which the JSON lines are appended, or None.
    """

    def __init__(
        self,
        benchmark: str,
        columns: dict[str, str],
        as_json: bool,
        output: str | None,
    ):
        self._columns, self._json, self._output = columns, as_json, output
        self._common = {
            "benchmark": benchmark,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
        }
        self.records: list[dict[str, Any]] = []

    def header(self, **machine: Any) -> None:
        """Adds to the machine's values; shows them, the versions, and the columns."""
        self._common["machine"] |= machine
        if self._json:
            return
        for name in ("machine", "versions"):
            print(", ".join(f"{x} {y}" for x, y in self._common[name].items()))
        print()
        self._row(self._columns)
        self._row(["---"] * len(self._columns))

    def add(self, record: dict[str, Any]) -> None:
        """Adds a result, and shows it."""
        record = self._common | record
        self.records.append(record)
        line = json.dumps(record)
        if self._output:
            with open(self._output, "a") as file:
                file.write(line + "\n")
        if self._json:
            print(line, flush=True)
        else:
            self._row(template.format(**record) for template in self._columns.values())

    def _row(self, cells: Sequence[str]) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)

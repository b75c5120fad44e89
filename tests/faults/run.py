"""Runs the whole operator's list of faults against the real command.

    python tests/faults/run.py [--only NAME ...] [--seed SEED] [--keep FOLDER]

It takes some minutes and prints a table: fault, what is expected, what was seen. The
exit code is 1 if a law is broken. A fault that cannot be brought about here, such as a
small disk without the right to mount one, is "not run".
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
import textwrap
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]  # the package that the commands run as well

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")

import damage  # noqa: E402
import disks  # noqa: E402
import kills  # noqa: E402
import processes  # noqa: E402
import refusals  # noqa: E402
import signals  # noqa: E402
from harness import Broken, NotRun, Place  # noqa: E402

WIDTHS = 26, 46, 56  # of the columns


def main() -> int:
    """Runs the faults that are asked for; returns the number of broken laws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join(FAULTS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {names}")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--keep", type=pathlib.Path, help="folder to keep all in")
    arguments = parser.parse_args()
    chosen = arguments.only or list(FAULTS)
    if unknown := [x for x in chosen if not any(x in name for name in FAULTS)]:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {names}")
    folder = arguments.keep or pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder, arguments.seed)
    print_row("fault", "expected", "seen", "ok")
    print("-" * (sum(WIDTHS) + 12))
    broken = 0
    try:
        for name, fault in FAULTS.items():
            if any(x in name for x in chosen):
                broken += not run_row(name, fault, place)
    finally:
        place.close()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{broken} laws are broken." if broken else "Every law holds.")
    return 1 if broken else 0


def run_row(name: str, fault, place: Place) -> bool:
    """Runs one fault and prints its row; returns whether the law holds."""
    since = time.monotonic()
    place.random.seed(f"{place.seed} {name}")  # the same alone and among others
    try:
        seen, result = fault(place), "ok"
    except NotRun as reason:
        seen, result = str(reason), "not run"
    except Broken as found:
        seen, result = str(found), "BROKEN"
    except Exception:  # of the script itself: the other rows still count
        seen, result = traceback.format_exc(limit=-2), "BROKEN"
    place.close()
    seconds = time.monotonic() - since
    print_row(name, fault.__doc__.splitlines()[0], seen, f"{result} {seconds:.0f} s")
    return result != "BROKEN"


def print_row(*cells: str) -> None:
    """Prints a row of the table, each cell on as many lines as it needs."""
    columns = [textwrap.wrap(x, w) or [""] for x, w in zip(cells, WIDTHS)]
    for number in range(max(map(len, columns))):
        line = "  ".join(
            f"{(column[number] if number < len(column) else ''):{width}}"
            for column, width in zip(columns, WIDTHS)
        )
        print(line + ("  " + cells[3] if number == 0 else ""), flush=True)


FAULTS = {
    "kills": kills.ten_kills,
    "signals": signals.ten_signals,
    "third_signal": signals.third_signal,
    "signal_while_sampling": signals.signal_while_sampling,
    **disks.FAULTS,
    **damage.FAULTS,
    **processes.FAULTS,
    **refusals.FAULTS,
}

if __name__ == "__main__":
    sys.exit(main())

"""The command line: parsing it, and explaining errors in one sentence."""

import contextlib
import difflib
import os
import pathlib
import sys
import threading
from collections.abc import Iterator
from traceback import extract_tb

from absl import flags
from ml_collections import config_flags

from diffusion_jax import paths, renames, run_config
from diffusion_jax.training import interrupts

PACKAGE = str(pathlib.Path(__file__).parent)
CONFIGS = pathlib.Path("configs")
FAILED, MISUSED = 1, 2  # exit codes: something broke; the user can mend it
END_WITHIN = 20.0  # seconds


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags, after renaming older config keys and checking them all.

    It exits with a sentence and code 2 if there is no such config, key or flag, or if a
    value has another type.
    """
    # config_flags reads the overrides from sys.argv, not from what it is given.
    sys.argv = argv = [renames.rename_argument(argument) for argument in argv]
    overrides = [m for m in map(renames.OVERRIDE.fullmatch, argv) if m]
    plain = [x for x in argv if not renames.OVERRIDE.fullmatch(x)]
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "", flag_values=values)
    values(plain, known_only=True)
    try:
        if values["config"].value is None:
            if not any(x.startswith(("--help", "-help")) for x in argv):
                raise ValueError(
                    "--config is missing: give one, such as --config=configs/digits.py."
                )
        else:
            _check_config_file(values["config"].value)
            values = flags.FlagValues()
            config = config_flags.DEFINE_config_file(
                "config", flag_values=values, sys_argv=plain
            )
            values(plain, known_only=True)
            run_config.check_keys(config.value, [match[1] for match in overrides])
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ValueError(f"Unknown arguments: {' '.join(rest[1:])}.")
        return rest
    except (flags.Error, ValueError, FileNotFoundError) as error:
        if "--traceback" in argv:
            raise
        lines = str(error).splitlines()
        is_traceback = any(line.startswith("Traceback") for line in lines)
        sentence = f"{lines[0].partition(':')[0]}: {lines[-1]}"  # of a config file
        print(sentence if is_traceback else _sentence(error), file=sys.stderr)
        sys.exit(MISUSED)


def _check_config_file(argument: str) -> None:
    """Raises FileNotFoundError unless --config=PATH[:VARIANT] names a file."""
    name = argument.partition(".py:")[0]
    path = paths.local(name if name == argument else f"{name}.py")
    if path.is_file():
        return
    known = sorted(
        str(x) for x in {*path.parent.glob("*.py")} | {*CONFIGS.glob("*.py")}
    )
    stems = {pathlib.Path(x).stem: x for x in known}
    near = [stems[x] for x in difflib.get_close_matches(path.stem, stems, 3, 0.5)]
    raise FileNotFoundError(
        f"There is no config {path}. "
        + (
            f"Did you mean {' or '.join(near)}?"
            if near
            else f"Known: {', '.join(known) or 'none in ' + str(path.parent)}."
        )
    )


@contextlib.contextmanager
def explained(traceback: bool) -> Iterator[None]:
    """Ends the program with a sentence, if an error is one that the user can mend.

    Args:
      traceback: let all errors pass instead.
    """
    try:
        yield
    except Exception as error:
        code = None if traceback else _code(error)
        if code is None:
            raise
        sys.stdout.flush()
        print(_sentence(error), file=sys.stderr, flush=True)
        sys.exit(code)


def _code(error: Exception) -> int | None:
    """Returns the exit code for an error; None for a fault of the program."""
    if isinstance(error, interrupts.Stopped):
        return 128 + error.number
    last = extract_tb(error.__traceback__)[-1]
    # This package raised it on purpose, to say what is wrong.
    on_purpose = last.filename.startswith(PACKAGE) and last.line.startswith("raise ")
    if isinstance(error, ValueError | FileNotFoundError) and on_purpose:
        return MISUSED
    return FAILED if isinstance(error, OSError) or on_purpose else None


def _sentence(error: Exception) -> str:
    """Returns an error's message and our notes on it, in one line."""
    notes = getattr(error, "__notes__", [])
    texts = [str(error), *(note for note in notes if "\n" not in note)]  # not JAX's
    texts = [text if text.endswith((".", "?")) else f"{text}." for text in texts]
    return " ".join(" ".join(texts).split())


def end_soon(error: BaseException) -> None:
    """Makes the process end after an error, even if a library's thread waits for ever.

    Args:
      error: which ends the program, perhaps a SystemExit.
    """
    code = error.code if isinstance(error, SystemExit) else FAILED
    if code:
        timer = threading.Timer(END_WITHIN, os._exit, [code])
        timer.daemon = True
        timer.start()

"""The command line: flags, folders, the log, and errors in one sentence."""

import contextlib
import difflib
import logging
import os
import pathlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from traceback import extract_tb

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

import diffusion_jax
from diffusion_jax import paths, progress, renames, run_config
from diffusion_jax.training import interrupts, processes

PACKAGE = str(pathlib.Path(__file__).parent)
CONFIGS = pathlib.Path("configs")
FAILED, MISUSED = 1, 2  # exit codes: something broke; a mistake of the user
END_WITHIN = 20.0  # seconds
WITH_OUTPUT = ("sample", "evaluate", "report")  # modes with a config and --output

# What a value has to be, by the message of an error.
KINDS = {
    "invalid literal for int()": "an integer",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}

_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the platform's processes.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "ADDRESS:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator.")


def start(main: Callable[[list[str]], None]) -> None:
    """Runs main(arguments after the flags), with signals handled until the end."""
    interrupts.handle_until_exit()
    try:
        app.run(main, flags_parser=parse_flags)
    except BaseException as error:
        end_soon(error)
        raise


def join_processes() -> None:
    """Connects this process to the others of the run, if the flags ask for it.

    Raises:
      ValueError: see `processes.initialize`.
    """
    cluster = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if _DISTRIBUTED.value or processes.on_pod() or cluster != (None, None, None):
        processes.initialize(*cluster)


def prepare(traceback: bool, quiet: bool) -> None:
    """Sets up the log, which goes to stdout, and the cache of compiled programs.

    Args:
      traceback: show the libraries' own error messages; otherwise only ours.
      quiet: show no progress, and of the log only warnings.
    """
    logger = logging.getLogger("diffusion_jax")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(progress.Handler())
    logger.propagate = False
    progress.show(not quiet)
    if not traceback:  # the libraries' errors reach us as exceptions
        absl_logging.set_verbosity(absl_logging.FATAL)
        threading.excepthook = lambda _: None
        sys.unraisablehook = lambda _: None
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", f"{cache}/diffusion_jax")
        # By default programs that compile within a second are not kept.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def folders(
    name: str, mode: str, workdir: str | None, output: str | None
) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the run's folder, and the folder of what sampling and evaluation write.

    Args:
      name: of the config.
      mode: of the command.
      workdir: --workdir; None for runs/NAME.
      output: --output; None for the workdir.

    Raises:
      ValueError: the name or a folder is invalid, or the mode has no output.
    """
    if output and mode not in WITH_OUTPUT:
        raise ValueError(
            f"--output has no effect with --mode={mode}: training writes to --workdir."
        )
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            f"config.name = {name!r} must consist of letters, digits, _, - and ."
        )
    if workdir == "":
        raise ValueError("--workdir is empty (an unset variable?): give a folder.")
    folder = paths.local(workdir or f"runs/{name}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--workdir={folder} is a file, not a folder.")
    return folder, paths.local(output) if output else folder


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags, after renaming older config keys and checking them all.

    It exits with a sentence and code 2 if there is no such config, key or flag, or if a
    value has another type.
    """
    argv = [renames.rename_argument(argument) for argument in argv]
    try:
        return _parse(argv)
    except (flags.Error, ValueError, FileNotFoundError) as error:
        if any(x.lstrip("-") in ("traceback", "traceback=true") for x in argv):
            raise
        print(_wrong_value(error) or _sentence(error), file=sys.stderr)
        sys.exit(MISUSED)


def _wrong_value(error: Exception) -> str:
    """Says what a value of the config has to be, where absl has Python's words for it.

    Returns:
      A sentence, or "" for other errors.
    """
    found = re.fullmatch(r"flag --config\.(\S+?)=(.*?): (.*)", str(error), re.DOTALL)
    kind = found and next((x for start, x in KINDS.items() if start in found[3]), "")
    if not kind:
        return ""
    if found[1] == "sample.label":
        kind = "the number of a class: the log of the training lists them, as 0=cats"
    return f"{found[1]} = {found[2]} must be {kind}."


def _parse(argv: list[str]) -> list[str]:
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "", flag_values=values)
    flags.DEFINE_bool("version", False, "", flag_values=values)
    for name in ("mode", "workdir"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    values([x for x in argv if not renames.OVERRIDE.fullmatch(x)], known_only=True)
    if values["version"].value:
        print(f"diffusion_jax {diffusion_jax.__version__}")
        sys.exit()
    if values["mode"].value == "compare":
        overrides = any(map(renames.OVERRIDE.fullmatch, argv))
        if overrides or values["config"].value or values["workdir"].value:
            raise ValueError(
                "--mode=compare takes no --config and no --workdir, but the folders of "
                "runs: --mode=compare runs/a runs/b."
            )
        return flags.FLAGS(argv)  # which leaves the folders
    given = values["config"].value
    if sum(map(_is_config, argv)) > 1:
        raise ValueError("--config is given twice: leave one of them out.")
    if given:
        path = os.path.expanduser(given)
        argv = [path if x == given else x for x in argv]
        argv = [x.replace(given, path) if _is_config(x) else x for x in argv]
        _check_config_file(path)
        config = _load_config(argv)
        overrides = [m for m in map(renames.OVERRIDE.fullmatch, argv) if m]
        run_config.check_keys(config, [match[1] for match in overrides])
    elif not any(x.lstrip("-").startswith("help") for x in argv):
        raise ValueError(
            "--config is missing: give one, such as --config=configs/digits.py."
        )
    # config_flags reads the overrides from sys.argv, not from what it is given.
    sys.argv = argv
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
        raise ValueError(f"Unknown arguments: {' '.join(rest[1:])}.")
    return rest


def _is_config(argument: str) -> bool:
    return argument.lstrip("-").startswith("config=")


def _load_config(argv: list[str]) -> ConfigDict:
    """Loads the file that --config names, without overrides.

    Raises:
      ValueError: it cannot be loaded.
    """
    values = flags.FlagValues()
    plain = [x for x in argv if not renames.OVERRIDE.fullmatch(x)]
    define = config_flags.DEFINE_config_file
    config = define("config", flag_values=values, sys_argv=plain)
    try:
        values(plain, known_only=True)
        loaded = config.value
    except Exception as error:  # whatever the file raises
        text = str(error)
        reason = f"{type(error).__name__}: {text}"
        if "Traceback" in text:  # its last line has the type and the message
            reason = text.splitlines()[-1]
        raise ValueError(f"The config file cannot be loaded: {reason}") from error
    if not isinstance(loaded, ConfigDict):
        raise ValueError(f"The config file returns no ConfigDict, but {loaded!r}.")
    return loaded


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
    """Ends the program with a sentence, if an error is one that the user can fix.

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
    if _is_out_of_memory(error):
        return FAILED
    last = extract_tb(error.__traceback__)[-1]
    # This package raised it on purpose, to say what is wrong.
    on_purpose = last.filename.startswith(PACKAGE) and last.line.startswith("raise ")
    if isinstance(error, ValueError | FileNotFoundError) and on_purpose:
        return MISUSED
    return FAILED if isinstance(error, OSError) or on_purpose else None


def _sentence(error: Exception) -> str:
    """Returns an error's message and our notes on it, in one line."""
    notes = getattr(error, "__notes__", [])  # those of libraries have several lines
    text = str(error)
    if _is_out_of_memory(error):
        text = (
            f"{text.splitlines()[0]} Lower the batch_size in data, sample or eval; for "
            "training also try train.accumulate, model.remat or model.dtype=bfloat16."
        )
    texts = [text, *(note for note in notes if "\n" not in note)]
    texts = [text if text.endswith((".", "?")) else f"{text}." for text in texts]
    return " ".join(" ".join(texts).split())


def _is_out_of_memory(error: Exception) -> bool:
    is_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return is_jax and str(error).startswith("RESOURCE_EXHAUSTED")


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

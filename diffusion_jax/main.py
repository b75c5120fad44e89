"""python -m diffusion_jax.main --config=configs/digits.py [--mode=...] [--workdir=...]

  --mode=train     trains; the same command again resumes from the last checkpoint
  --mode=sample    runs sample.task, writes OUTPUT/TASK.npz and .png (or .txt, .gif)
  --mode=evaluate  appends a line of metrics to OUTPUT/evaluations.jsonl
  --mode=config    prints the whole config, as it is after all overrides

--config.GROUP.NAME=VALUE sets any value of the config, such as --config.seed=1 or
--config.sample.sampler=ancestral. If there is a run in WORKDIR, every mode but config
starts from the values of that run. OUTPUT is WORKDIR unless --output sets it.

Exit codes: 0 done, or training was stopped by a signal (the same command resumes it);
1 a failure, such as a full disk or a loss that is not finite; 2 a mistake in the
command, the config or the data; 128 + N sampling or evaluation was stopped by signal N,
or anything was killed by a third one.
"""

import signal

if __name__ == "__main__":
    # While modules are imported, Ctrl-C ends the process without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

import logging
import os
import pathlib
import re
import sys
import threading

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from diffusion_jax import command_line, paths, run_config, strict_json
from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
from diffusion_jax.train import train
from diffusion_jax.training import interrupts, processes


def print_config(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path
) -> None:
    """--mode=config: prints the whole config as JSON."""
    print(strict_json.dumps(config.to_dict(), indent=2))


MODES = {
    "train": lambda config, workdir, output: train(config, workdir),
    "sample": sample,
    "evaluate": evaluate,
    "config": print_config,
}

_CONFIG = config_flags.DEFINE_config_file("config", help_string="The experiment.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/NAME.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for what sample and evaluate write; default WORKDIR."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where an error was raised.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the platform's processes.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "ADDRESS:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator.")


def main(argv: list[str]) -> None:
    """Prepares the process, joins the others if there are any, and runs the mode."""
    logger = logging.getLogger("diffusion_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.propagate = False
    if not _TRACEBACK.value:  # the libraries' errors reach us as exceptions
        absl_logging.set_verbosity(absl_logging.FATAL)
        threading.excepthook = lambda _: None
        sys.unraisablehook = lambda _: None
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", f"{cache}/diffusion_jax")
    with command_line.explained(_TRACEBACK.value):
        if not _COORDINATOR.value and (_NUM_PROCESSES.value or _PROCESS_ID.value):
            raise ValueError(
                "--num_processes and --process_id require --coordinator=ADDRESS:PORT."
            )
        if _COORDINATOR.value or _DISTRIBUTED.value or processes.on_pod():
            numbers = _NUM_PROCESSES.value, _PROCESS_ID.value
            processes.initialize(_COORDINATOR.value, *numbers)
        with processes.together(), command_line.explained(_TRACEBACK.value):
            run()


def run() -> None:
    """Runs the mode on the config that the flags describe."""
    config, mode = _CONFIG.value, _MODE.value
    if _OUTPUT.value and mode not in ("sample", "evaluate"):
        raise ValueError(
            f"--output has no effect with --mode={mode}: training writes to --workdir."
        )
    if not re.fullmatch(r"\w[\w.-]*", config.name):
        raise ValueError(
            f"config.name = {config.name!r} must consist of letters, digits, _, - and ."
        )
    if _WORKDIR.value == "":
        raise ValueError("--workdir is empty (an unset variable?): give a folder.")
    workdir = paths.local(_WORKDIR.value or f"runs/{config.name}")
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is a file, not a folder.")
    output = paths.local(_OUTPUT.value or workdir)
    is_resumed = mode == "train" and (workdir / run_config.CONFIG).exists()
    if is_resumed or mode in ("sample", "evaluate"):
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        config = run_config.read_config(workdir, config, overrides)
    MODES[mode](config.copy_and_resolve_references(), workdir, output)


if __name__ == "__main__":
    interrupts.handle_until_exit()
    try:
        app.run(main, flags_parser=command_line.parse_flags)
    except BaseException as error:
        command_line.end_soon(error)
        raise

"""python -m diffusion_jax.main --config=configs/digits.py [--mode=...] [--workdir=...]

  --mode=train     trains; the same command again resumes from the last checkpoint
  --mode=sample    runs sample.task, writes OUTPUT/TASK.npz and .png (or .txt, .gif)
  --mode=evaluate  appends a line of metrics to OUTPUT/evaluations.jsonl
  --mode=report    writes OUTPUT/report.html, a page about the run
  --mode=compare   RUN RUN ... (and no --config): a table, and OUTPUT/compare.html
  --mode=config    prints the whole config, after all overrides and as it is planned

--config.GROUP.NAME=VALUE sets any value of the config, such as --config.seed=1 or
--config.sample.sampler=ancestral. If there is a run in WORKDIR, every mode but config
starts from the values of that run. OUTPUT is WORKDIR unless --output sets it, and of
compare the current folder.

Exit codes: 0 done, or training was stopped by a signal (the same command resumes it);
1 a failure, such as a full disk; 2 a mistake in the command, the config or the data;
128 + N sampling or evaluation was stopped by signal N, or anything by a third one.
"""

import signal

if __name__ == "__main__":
    # While modules are imported, Ctrl-C ends the process without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

from absl import flags
from ml_collections import config_flags

from diffusion_jax import command_line, planning
from diffusion_jax.compare import compare
from diffusion_jax.evaluate import evaluate
from diffusion_jax.report import report
from diffusion_jax.sample import sample
from diffusion_jax.training import processes
from diffusion_jax.training_loop import train

MODES = {
    "train": lambda config, workdir, output: train(config, workdir),
    "sample": sample,
    "evaluate": evaluate,
    "report": lambda *args: report(*args, config_file=_config_file()),
    "config": planning.show_config,
}

_CONFIG = config_flags.DEFINE_config_file("config", help_string="The experiment.")
_MODE = flags.DEFINE_enum("mode", "train", [*MODES, "compare"], "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/NAME.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write to. Not for train.")
flags.DEFINE_bool("version", False, "Print the version and exit.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where an error was raised.")
_QUIET = flags.DEFINE_bool("quiet", False, "Print only metrics, texts, warnings.")
flags.adopt_module_key_flags(command_line)  # --help shows them


def _config_file() -> str:
    return config_flags.get_config_filename(flags.FLAGS["config"])


def main(argv: list[str]) -> None:
    """Joins the other processes, if there are any, and runs the mode."""
    command_line.prepare(_TRACEBACK.value, _QUIET.value)
    with command_line.explained(_TRACEBACK.value):
        command_line.join_processes()
        # Inside together(): a process explains its error before all of them end.
        with processes.together(), command_line.explained(_TRACEBACK.value):
            run(argv[1:])


def run(arguments: list[str]) -> None:
    """Runs the mode on the config that the flags describe, or on the runs given."""
    mode, output = _MODE.value, _OUTPUT.value
    if mode == "compare":
        compare(arguments, output)
        return
    config = _CONFIG.value
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    workdir, folder = command_line.folders(config.name, mode, _WORKDIR.value, output)
    config = planning.choose_config(config, mode, workdir, overrides)
    MODES[mode](config.copy_and_resolve_references(), workdir, folder)


if __name__ == "__main__":
    command_line.start(main)

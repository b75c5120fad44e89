"""python -m diffusion_jax.main --config=configs/digits.py [--mode=...] [--workdir=...]

  --mode=train     trains; the same command again resumes from the last checkpoint
  --mode=sample    runs sample.task, writes WORKDIR/TASK.npz and .png (or .txt, .gif)
  --mode=evaluate  appends a line of metrics to WORKDIR/evaluations.jsonl
  --mode=config    prints the whole config, as it is after all overrides

--config.GROUP.NAME=VALUE sets any value of the config, such as --config.seed=1 or
--config.sample.sampler=ancestral; sample and evaluate start from WORKDIR's config.
"""

import logging
import os
import pathlib
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from diffusion_jax import renames, run_config
from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
from diffusion_jax.train import train
from diffusion_jax.training import parallel

MODES = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "config": lambda config, workdir: print(config.to_json(indent=2)),
}

_CONFIG = config_flags.DEFINE_config_file("config", help_string="The experiment.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/NAME.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the platform's processes.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "ADDRESS:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator.")


def main(argv: list[str]) -> None:
    """Prepares the process and dispatches on the mode."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    logger = logging.getLogger("diffusion_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.ERROR)  # of the libraries
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", f"{cache}/diffusion_jax")
    if _COORDINATOR.value or _DISTRIBUTED.value or parallel.on_pod():
        parallel.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    config = _CONFIG.value.copy_and_resolve_references()
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{config.name}")
    if _MODE.value in ("sample", "evaluate"):
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        config = run_config.read_config(workdir, config, overrides)
    MODES[_MODE.value](config, workdir)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags, after renaming older config keys and checking them all."""
    # config_flags reads the overrides from sys.argv, not from what it is given.
    sys.argv = argv = [renames.rename_argument(argument) for argument in argv]
    overrides = [m for m in map(renames.OVERRIDE.fullmatch, argv) if m]
    plain = [x for x in argv if not renames.OVERRIDE.fullmatch(x)]
    values = flags.FlagValues()
    define = config_flags.DEFINE_config_file
    config = define("config", flag_values=values, sys_argv=plain)
    values(plain, known_only=True)
    try:
        if config.value is not None:
            run_config.check_keys(config.value, [match[1] for match in overrides])
    except ValueError as error:
        sys.exit(str(error))  # a typing error: no traceback
    return app.parse_flags_with_usage(argv)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)

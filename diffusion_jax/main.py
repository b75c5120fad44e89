"""python -m diffusion_jax.main --config=configs/digits.py [--mode=...] [--workdir=...]

  --mode=train     trains; the same command again goes on from the last checkpoint
  --mode=sample    draws sample.num_images into WORKDIR/samples.npz and samples.png
  --mode=evaluate  appends a line of measures to WORKDIR/evaluations.jsonl

--config.GROUP.NAME=VALUE sets any value of the config, such as --config.seed=1 or
--config.sample.sampler=ancestral; sample and evaluate start from WORKDIR's config.
"""

import logging
import os
import pathlib
import re
import sys

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from diffusion_jax import runs
from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
from diffusion_jax.train import train
from diffusion_jax.training import parallel

MODES = {"train": train, "sample": sample, "evaluate": evaluate}

_CONFIG = config_flags.DEFINE_config_file("config", help_string="The experiment.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME if none.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the platform's processes.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "ADDRESS:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator.")


def main(argv: list[str]) -> None:
    """Prepares the process and dispatches on the mode."""
    if len(argv) > 1:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    logger = logging.getLogger("diffusion_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.ERROR)  # the libraries' own chatter
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", f"{cache}/diffusion_jax")
    if _COORDINATOR.value or _DISTRIBUTED.value or parallel.on_pod():
        parallel.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    config = _CONFIG.value.copy_and_resolve_references()
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{config.name}")
    if _MODE.value != "train":
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        config = runs.read_config(workdir, config, overrides)
    MODES[_MODE.value](config, workdir)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags, after a look at whether the config knows the keys in them."""
    is_override = re.compile("--?config[.]([^=]+)").match
    plain = [arg for arg in argv if not is_override(arg)]
    alone = flags.FlagValues()
    define = config_flags.DEFINE_config_file
    config = define("config", flag_values=alone, sys_argv=plain)
    alone(plain, known_only=True)
    try:
        if config.value is not None:
            runs.check_keys(config.value, [k[1] for k in map(is_override, argv) if k])
    except ValueError as error:
        sys.exit(str(error))  # a slip of the hand: no traceback
    return app.parse_flags_with_usage(argv)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)

"""python -m diffusion_jax.main --config=configs/digits.py [--mode=train] [...]

Trains, samples from, or evaluates the model of a config:

  --mode=train     trains; the same command again goes on from the last checkpoint
  --mode=sample    draws sample.num_images into WORKDIR/samples.npz and .png
  --mode=evaluate  appends one line of measures to WORKDIR/evaluations.jsonl

Any value of the config is set by --config.GROUP.NAME=VALUE, for example
--config.train.num_steps=100 or --config.sample.sampler=ddim. Sampling and evaluation
take the run's own config from WORKDIR, and such values on top of it.
"""

import json
import logging
import os
import pathlib
import sys

import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
from diffusion_jax.train import train
from diffusion_jax.training import parallel

MODES = {"train": train, "sample": sample, "evaluate": evaluate}

_CONFIG = config_flags.DEFINE_config_file("config", help_string="The experiment.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME if none.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join other processes, found by the platform (TPU, SLURM)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "ADDRESS:PORT of process 0, where no platform tells it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator.")


def main(argv: list[str]) -> None:
    """Reads the flags and dispatches on the mode."""
    if len(argv) > 1:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    logger = logging.getLogger("diffusion_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.propagate = False  # absl's handler is for the libraries' warnings
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        cache = pathlib.Path(cache) / "diffusion_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if _COORDINATOR.value or _DISTRIBUTED.value or parallel.on_pod():
        parallel.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    config = _CONFIG.value.copy_and_resolve_references()
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{config.name}")
    if _MODE.value != "train":
        config = with_overrides(workdir, config.name)
    MODES[_MODE.value](config, workdir)


def with_overrides(workdir: pathlib.Path, name: str) -> ml_collections.ConfigDict:
    """Returns the config of the run in workdir, with the flags' values on top."""
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"No run in {workdir}: {path} is missing. Train first.")
    config = ml_collections.ConfigDict(json.loads(path.read_text()))
    if config.name != name:
        raise ValueError(f"{workdir} holds a run of {config.name!r}, not {name!r}.")
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    config.update_from_flattened_dict(overrides)
    return config


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)

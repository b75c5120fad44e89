"""--mode=sample: runs a task of a trained model and writes its outputs."""

import logging
import pathlib
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import methods, run_config, run_data, runs, task_runner
from diffusion_jax.outputs import writers
from diffusion_jax.training import interrupts

LOGGER = logging.getLogger(__name__)


def sample(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path | None = None
) -> None:
    """Runs sample.task; writes OUTPUT/TASK.npz, a preview, an animation, and TASK.json.

    The first texts, if the outputs have any, are printed as well.

    The npz file holds the task's outputs by name, images as u8[N, H, W, C], and the
    labels of the examples that they are conditioned on; `outputs.writers` describes the
    pictures. The json file has the checkpoint's step and the options that were used.

    Args:
      config: of the run.
      workdir: the run's folder; nothing in it changes if there is an output.
      output: folder of the files; None for the workdir.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir, or no data.
      ValueError: the config does not match the checkpoint, or the task is unknown.
      Stopped: the program was asked to stop; nothing is written.
    """
    options, folder = config.sample, output or workdir
    run_data.forget()
    methods.check(config)
    with interrupts.handled():
        writers.check_writable(folder)
        fields = run_config.stored_fields(config, workdir)
        method = methods.make(config, fields)
        # Options that are wrong are found before the checkpoint is read.
        names = run_config.class_names(config, fields)
        runner = task_runner.make(config, method, options.task, class_names=names)
        run_config.check_vocabularies(config, runner.source.fields, workdir)
        run_config.warn_of_other_sizes(config, runner.source.fields, workdir)
        settings = _settings(config)
        shown = ", ".join(f"{name}={x}" for name, x in settings.items())
        LOGGER.info("Running %s with %s.", options.task, shown)
        run = runs.load(config, workdir, options.checkpoint)
        outputs = runner.run(run.variables)
        animation = options.animation or "frames" in outputs  # sample.num_frames > 0
        path = folder / options.task
        writers.save(path, outputs, runner.fields, animation)
        writers.write_json(path.with_suffix(".json"), {"step": run.step} | settings)
        writers.print_texts(outputs, runner.fields)


def _settings(config: ConfigDict) -> dict[str, Any]:
    """Returns the options of sample.task, and what else its outputs depend on."""
    options = config.sample
    found = {
        "num_examples": options.num_examples,
        **methods.task_options(config, options.task),
        "split": config.eval.split,
        "seed": options.seed,
    }
    unused = {"label": -1, "prompt": None, "num_candidates": 1, "scorer": ""}
    used = {x: options[x] for x, y in unused.items() if options.get(x, y) != y}
    return found | used

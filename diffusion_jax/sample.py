"""--mode=sample: runs a task of a trained model and writes its outputs."""

import pathlib

from ml_collections import ConfigDict

from diffusion_jax import methods, run_config, run_data, runs, task_runner
from diffusion_jax.outputs import writers
from diffusion_jax.training import interrupts


def sample(
    config: ConfigDict, workdir: pathlib.Path, output: pathlib.Path | None = None
) -> None:
    """Runs sample.task; writes OUTPUT/TASK.npz, a preview and an animation.

    The first texts, if the outputs have any, are printed as well.

    The npz file holds the task's outputs by name, images as u8[N, H, W, C], and the
    labels of the examples that they are conditioned on; `outputs.writers` describes the
    other files.

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
        method = methods.make(config, run_config.stored_fields(config, workdir))
        # Options that are wrong are found before the checkpoint is read.
        runner = task_runner.make(config, method, options.task)
        run_config.check_vocabularies(config, runner.source.fields, workdir)
        run_config.warn_of_other_sizes(config, runner.source.fields, workdir)
        outputs = runner.run(runs.load(config, workdir, options.checkpoint).variables)
        animation = options.animation or "frames" in outputs  # sample.num_frames > 0
        writers.save(folder / options.task, outputs, runner.fields, animation)
        writers.print_texts(outputs, runner.fields)

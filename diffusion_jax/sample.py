"""--mode=sample: runs a task of a trained model and writes its outputs."""

import pathlib

from ml_collections import ConfigDict

from diffusion_jax import runs, task_runner
from diffusion_jax.outputs import writers


def sample(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs sample.task and writes WORKDIR/TASK.npz, a preview, and an animation.

    The npz file holds the task's outputs by name, images as u8[N, H, W, C], and the
    labels that they are conditioned on; `outputs.writers` describes the other files.

    Raises:
      FileNotFoundError: there is no checkpoint in workdir, or no data.
      ValueError: the config does not match the checkpoint, or the task is unknown.
    """
    options = config.sample
    run = runs.load(config, workdir, options.checkpoint)
    runner = task_runner.make(config, run.method, options.task)
    outputs = runner.run(run.variables)
    animation = options.animation or "frames" in outputs  # sample.num_frames > 0
    writers.save(workdir / options.task, outputs, runner.fields, animation)

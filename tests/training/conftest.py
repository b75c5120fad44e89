"""The smallest configs, and runs of the command in their own processes."""

import os
import pathlib
import subprocess
import sys

import pytest
from smoke import load

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The smallest U-Net, with dropout, and a timestep sampler that has a state.
DIGITS = {
    "model__base_channels": 8,
    "model__channel_multipliers": (1,),
    "model__num_blocks": 0,  # of the encoder; the decoder has one
    "model__dropout": 0.1,
    "diffusion__timestep_sampler": "second_moment",
    "optim__warmup_steps": 0,
    "optim__decay_end": 100_000,
}
# One config of each kind.
FAMILIES = {
    "autoencoder": "digits_autoencoder",
    "vae": "fashion_mnist_vae",  # binarises pixels at random
    "dcgan": "digits_dcgan",
    "wgan_gp": "grid25_gan",
    "cyclegan": "horse2zebra_cyclegan",  # with the identity term
    "pix2pix": "digits_pix2pix",
    "classifier": "digits_classifier",
    "dvae": "digits_dvae",
    "dalle": "digits_dalle",
    "contrastive": "digits_contrastive",
    "captions": "digits_captions",
    "cascade": "digits_cascade",
    "seq2seq": "reverse_attention",
    "language_model": "python_docs_gru",
}


@pytest.fixture
def digits_config():
    """The smallest diffusion model of digits: batches of 8, every step logged."""
    config = load("digits", **DIGITS)
    config.train.update(num_steps=4, log_every=1, save_every=2, sample_every=0)
    return config


@pytest.fixture(params=FAMILIES)
def family(request):
    """Each family in turn: its name and its smallest config."""
    config = load(FAMILIES[request.param])
    config.train.update(num_steps=4, log_every=1, save_every=2, sample_every=0)
    if request.param == "seq2seq":
        config.data.update(source="reverse:2-20", bucketed=True)
    return request.param, config


class Commands:
    """Starts `python -m diffusion_jax.main` on a small model of digits."""

    def __init__(self):
        self.started = []

    def start(self, workdir, devices=1, script=None, config="digits", **values):
        """Starts a training run; keys of values are GROUP__NAME, or flags' names.

        A script is run instead of the module if there is one.
        """
        values = {
            **(DIGITS if config == "digits" else {}),
            **{"train__log_every": 1, "train__save_every": 1},
            **{"train__sample_every": 0},
            **values,
        }
        flags = [
            f"--config.{name.replace('__', '.')}={value}"
            if "__" in name
            else f"--{name}={value}"
            for name, value in values.items()
        ]
        program = ["-c", script] if script else ["-m", "diffusion_jax.main"]
        run = [f"--config=configs/{config}.py:tiny", f"--workdir={workdir}"]
        process = subprocess.Popen(
            [sys.executable, *program, *run, *flags],
            cwd=ROOT,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process, timeout=900):
        """Waits for the end; returns the exit code and all that was printed."""
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output


@pytest.fixture(scope="module")
def commands():
    """Runs of the command; those still running at the end are killed."""
    made = Commands()
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.wait()

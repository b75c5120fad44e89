"""Configs at their tiniest, and runs of the command in processes of their own."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NETWORK = {"base_channels": 8, "channel_multipliers": (1,), "dropout": 0.1}
# One config of each kind: at :tiny other tests compile the same programs.
FAMILIES = {
    "autoencoder": "digits_autoencoder",
    "vae": "fashion_mnist_vae",  # draws its pixels
    "dcgan": "digits_dcgan",
    "wgan_gp": "grid25_gan",
    "cyclegan": "horse2zebra_cyclegan",  # with the identity term
    "classifier": "digits_classifier",
}


def load(name):
    """The smoke run of configs/NAME.py."""
    return runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")


@pytest.fixture
def digits_config():
    """The digits at their tiniest: batches of 8, a step and a checkpoint a line."""
    config = load("digits")
    config.model.update(NETWORK)
    config.diffusion.timestep_sampler = "second_moment"  # it has a memory
    config.optim.update(warmup_steps=0, decay_steps=100_000)
    config.train.update(num_steps=4, log_every=1, save_every=2, sample_every=0)
    return config


@pytest.fixture(params=FAMILIES)
def family(request):
    """Each family in turn, at its tiniest: its name and its config."""
    config = load(FAMILIES[request.param])
    config.train.update(num_steps=4, log_every=1, save_every=2, sample_every=0)
    return request.param, config


class Commands:
    """Starts `python -m diffusion_jax.main` on the digits at their tiniest.

    All of them share one cache of compiled programs.
    """

    def __init__(self, cache):
        self.started = []
        self._env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }

    def start(self, workdir, devices=1, script=None, **values):
        """Starts a training run; keys of values are GROUP__NAME, or flags' names.

        A script stands for the module, where one is given.
        """
        values = {
            **{f"model__{name}": value for name, value in NETWORK.items()},
            "diffusion__time_draw": "second_moment",
            **{"optim__warmup_steps": 0, "optim__decay_steps": 100_000},
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
        config = ["--config=configs/digits.py:tiny", f"--workdir={workdir}"]
        process = subprocess.Popen(
            [sys.executable, *program, *config, *flags],
            cwd=ROOT,
            env=self._env | {"JAX_NUM_CPU_DEVICES": str(devices)},
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
def commands(tmp_path_factory):
    """Runs of the command; what is still running at the end is killed."""
    made = Commands(tmp_path_factory.mktemp("compiled"))
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.wait()

"""Runs of two steps of the configs at :tiny, as the tests of all families use them."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from smoke import CONFIGS, load

from diffusion_jax import planning, runs
from diffusion_jax.outputs import writers
from diffusion_jax.training_loop import train

# Values that are numbers in a program, or when to run it, not another program.
NUMBERS = """name data.flip optim.learning_rate optim.disc_learning_rate optim.b1
    optim.b2 optim.ema_decay optim.decay_start optim.decay_end optim.decay_to
    train.log_every train.save_every train.sample_every train.keep data.held_out
    dvae.kl_warmup_steps dvae.kl_weight dvae.temperature_steps dvae.noise_scale
    eval.metric""".split()
# One of each family and network, some with another name; this DCGAN is conditional.
RUNS = {
    "autoencoder": "digits_autoencoder",
    "conv": "fashion_mnist_autoencoder",
    "vae": "digits_vae",
    "dvae": "digits_dvae",
    "vqvae": "digits_dvae",
    "dalle": "digits_dalle",
    "gan": "digits_gan",
    "dcgan": "digits_dcgan",
    "points": "grid25_gan",
    "cyclegan": "digits_cyclegan",
    "pix2pix": "digits_pix2pix",
    "classifier": "digits_classifier",
    "cascade": "digits_cascade",
    "upsampler": "digits_upsampler",
    "contrastive": "digits_contrastive",
    "language_model": "python_docs_gru",
    "seq2seq": "reverse_attention",
}
CHANGES = {"dcgan": {"model__num_classes": 10}, "vqvae": {"model__name": "vq"}}
OF_TEXT = "language_model", "seq2seq"
TinyRun = tuple[pathlib.Path, ConfigDict, list[Any]]


def train_tiny(name: str, folder: pathlib.Path) -> TinyRun:
    """Trains a run for two steps.

    Args:
      name: a key of RUNS, or a config.
      folder: where the run's folder is made.

    Returns:
      The run's folder, its config, and what it drew after the last step.
    """
    config_name = RUNS.get(name, name)
    config = load(config_name, train__num_steps=2, **CHANGES.get(name, {}))
    config, workdir = planning.complete(config), folder / config_name
    with pytest.MonkeyPatch.context() as patch:
        drawn, save = [], writers.save_preview
        spy = lambda *x: (drawn.append(x[1:]), save(*x))  # noqa: E731
        patch.setattr(writers, "save_preview", spy)
        train(config, workdir)
    return workdir, config, drawn


def check_tiny(workdir: pathlib.Path, config: ConfigDict, drawn: list[Any]) -> None:
    """Checks that a run's weights, and the images or texts it drew, are finite."""
    run = runs.load(config, workdir, "last")
    assert run.step == 2
    for leaf in jax.tree.leaves(run.variables):
        assert np.all(np.isfinite(leaf))
    if not config.train.sample_every:
        assert not drawn
        return
    if config.method in OF_TEXT:
        assert (workdir / "samples/00000002.txt").read_text(encoding="utf-8")
    else:
        Image.open(workdir / "samples/00000002.png").verify()
    ((outputs, fields),) = drawn
    for key, array in outputs.items():
        assert array.shape == (16, *fields[key].shape)
        assert np.all(np.isfinite(array))


def distinct_programs():
    """The configs, but for those that at :tiny differ from another in NUMBERS only."""
    first = {}
    for name in [*RUNS.values(), *CONFIGS]:
        config = load(name)
        with config.unlocked():
            for key in NUMBERS:
                group, _, last = key.rpartition(".")
                node = config.get(group, {}) if group else config
                if last in node:
                    del node[last]
        first.setdefault(config.to_json(sort_keys=True), name)
    names = {config_name: name for name, config_name in RUNS.items()}
    return [names.get(name, name) for name in first.values()]

"""A run's folder: configs of older versions, and the splits of two domains."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from diffusion_jax import runs
from diffusion_jax.train import train

ROOT = pathlib.Path(__file__).resolve().parents[1]


def load(name, **changes):
    """The smoke run of configs/NAME.py, with GROUP__KEY=value set."""
    config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


def forget(workdir, *keys):
    """Takes keys out of config.json, as if it were written before they were."""
    path = workdir / runs.CONFIG
    stored = json.loads(path.read_text())
    for key in keys:
        group, name = key.split(".")
        del stored[group][name]
    path.write_text(json.dumps(stored))


def test_older_configs_are_completed(tmp_path):
    """What the run's config lacks is that of the config file; what it has stays."""
    config = load("digits", sample__num_images=7)
    runs.write_config(config, tmp_path)
    forget(tmp_path, "eval.classifier", "sample.animation", "diffusion.self_condition")
    now = load("digits", sample__num_images=3, eval__classifier="somewhere")
    found = runs.read_config(tmp_path, now, {})
    assert found.eval.classifier == "somewhere" and found.sample.animation is False
    assert found.diffusion.self_condition is False
    assert found.sample.num_images == 7
    runs.write_config(now, tmp_path)  # and training goes on
    assert (
        json.loads((tmp_path / runs.CONFIG).read_text())["sample"]["animation"] is False
    )


def test_completed_configs_still_refuse(tmp_path):
    """A value that belongs to the weights is compared as before."""
    config = load("digits")
    runs.write_config(config, tmp_path)
    forget(tmp_path, "diffusion.self_condition")
    with pytest.raises(ValueError, match="diffusion was"):
        runs.write_config(load("digits", diffusion__prediction="eps"), tmp_path)


def test_splits_of_two_domains():
    """Training reads train_split and train_split_b, measuring split and split_b, also
    where two of them have one name."""
    config = load(
        "digits_cyclegan",
        eval__split="train_even",
        eval__split_b="test",
        data__train_split_b="train_odd",
    )
    train_on, held_out = runs.open_train(config), runs.open_held_out(config)
    assert (len(train_on.a), len(train_on.b)) == (719, 719)
    assert (len(held_out.a), len(held_out.b)) == (719, 359)
    np.testing.assert_array_equal(train_on.a.images, held_out.a.images)


def test_a_run_without_a_pool(tmp_path):
    """CycleGAN with pool_size 0 trains, saves and is restored."""
    config = load("digits_cyclegan", cyclegan__pool_size=0, train__sample_every=0)
    config.train.num_steps = 2
    train(config, tmp_path)
    _, state = runs.load(config, tmp_path, "last")
    assert int(state.step) == 2 and state.extra["a"]["pool"] == ()

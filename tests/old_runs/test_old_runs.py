"""Runs of commit 3d0b8d1, the last one before the contracts changed, go on as before.

3d0b8d1.tar.xz holds a run of four steps of every family, with the outputs of all its
tasks and the parameters after two more steps, as that commit computed them (at :tiny,
diffusion with classes, guidance, self-conditioning, a learned variance and a timestep
sampler with a state).
"""

import pathlib
import runpy
import tarfile

import jax
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax import methods, renames, run_config, runs, task_runner
from diffusion_jax.data.transforms import to_uint8
from diffusion_jax.evaluators.feature_extractors import open_feature_extractor
from diffusion_jax.training.checkpoints import Checkpoints
from diffusion_jax.training.state import trace_initial
from diffusion_jax.training_loop import train

HERE = pathlib.Path(__file__).parent
FAMILIES = {  # run -> config
    "digits_guided": "digits",
    "digits_autoencoder": "digits_autoencoder",
    "digits_vae": "digits_vae",
    "digits_gan": "digits_gan",
    "digits_dcgan": "digits_dcgan",
    "digits_cyclegan": "digits_cyclegan",
    "grid25_gan": "grid25_gan",
    "digits_classifier": "digits_classifier",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs, unpacked."""
    folder = tmp_path_factory.mktemp("old_runs")
    with tarfile.open(HERE / "3d0b8d1.tar.xz") as file:
        file.extractall(folder, filter="data")
    return folder


def read_config(name, workdir, **overrides):
    path = HERE.parents[1] / f"configs/{FAMILIES[name]}.py"
    config = runpy.run_path(str(path))["get_config"]("tiny")
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    return run_config.read_config(workdir, config, overrides)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_the_same(name, folder):
    """Loaded under today's names, a run gives the same samples for the same seed."""
    check_tasks(name, folder / name, {"samples", "translations"})


@pytest.mark.parametrize("name", ["digits_guided", "digits_dcgan", "grid25_gan"])
def test_samples_are_the_same_from_python(name, folder):
    """`load` needs no config file for it."""
    model = dj.load(folder / name)
    assert model.step == 4
    expected = np.load(folder / name / "outputs.npz")["samples/images"]
    found = model.sample(6, batch_size=4)
    if found.dtype == np.uint8:
        difference = found.astype(int) - to_uint8(expected.reshape(found.shape))
        assert np.abs(difference).max() <= 1
    else:
        np.testing.assert_allclose(found, expected.reshape(found.shape), atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_task_is_the_same(name, folder):
    """So does every other task of every family."""
    check_tasks(name, folder / name)


def check_tasks(name, workdir, views=None):
    """Compares the outputs of the views, by their old names, or of all."""
    expected = dict(np.load(workdir / "outputs.npz"))
    config = read_config(name, workdir, sample__num_examples=6, sample__batch_size=4)
    run = runs.load(config, workdir, "last")
    assert run.step == 4
    renamed = renames.RENAMED_VALUES["sample.task"]
    there = {key.split("/")[0] for key in expected}
    for view in sorted(there & (views or there)):
        task = renamed.get(view, view)
        outputs = task_runner.make(config, run.method, task).run(run.variables)
        images = "rows" if "rows" in outputs else run.method.data
        today = {"images": images, "labels": "label", "frames": "frames"}
        for key in [key for key in expected if key.startswith(f"{view}/")]:
            found = outputs[today[key.split("/")[1]]].reshape(expected[key].shape)
            np.testing.assert_allclose(found, expected[key], atol=2e-4, err_msg=key)


def test_classifiers_go_on_measuring_samples(folder):
    """A run of that time, which predicts one label, serves as eval.classifier."""
    workdir = folder / "digits_classifier"
    extractor = open_feature_extractor(str(workdir), "digits", (8, 8, 1))
    assert (extractor.labels, extractor.num_classes) == (("label",), 10)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    outputs = extractor.extract(images)
    assert outputs.keys() == {"features", "probabilities"}
    assert outputs["probabilities"].shape == (3, 10)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_goes_on_where_it_would_have(name, folder):
    """Two more steps of training reach the parameters and averages that it reached.

    Where the learning rate had decayed to 0 after the fourth step, today the decay ends
    with the longer run: a rate next to 0 takes its place.
    """
    workdir = folder / name
    changes = {"train__num_steps": 6, "train__save_every": 6}
    optim = read_config(name, workdir).optim
    if optim.decay_end == 4:
        assert read_config(name, workdir, **changes).optim.decay_end == 6
        rates = ("learning_rate", "disc_learning_rate")
        changes |= {f"optim__{rate}": 1e-9 for rate in rates if rate in optim}
    config = read_config(name, workdir, **changes)
    train(config, workdir)
    method = methods.make(config, run_config.stored_fields(config, workdir))
    checkpoints = Checkpoints(workdir / run_config.CHECKPOINTS, read_only=True)
    state = checkpoints.restore(trace_initial(method).out_info, 6)
    leaves = jax.tree_util.tree_flatten_with_path((state.params, state.ema))[0]
    expected = dict(np.load(workdir / "resumed.npz"))
    assert len(leaves) == len(expected)
    for path, leaf in leaves:
        key = jax.tree_util.keystr(path, simple=True, separator=".")
        np.testing.assert_allclose(leaf, expected[key], atol=1e-4, err_msg=key)

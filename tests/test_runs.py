"""A run's folder: older versions' configs, splits of two domains, copied groups."""

import functools
import json
import logging
import math
import re
import types

import jax
import numpy as np
import pytest
from absl import flags
from smoke import CONFIGS, load, restore

from diffusion_jax import command_line, methods, renames, run_config, run_data, runs
from diffusion_jax.data.base import Field, image_field, label_field
from diffusion_jax.training import state as states
from diffusion_jax.training_loop import train

# One config for each old key: a name of the config, and a value of that key.
OLD_KEYS = {
    "diffusion.zero_snr": ("digits", True),
    "diffusion.time_draw": ("digits", "antithetic"),
    "diffusion.label_dropout": ("digits", 0.25),
    "optim.decay_steps": ("digits", 7),
    "sample.clip": ("digits", "dynamic"),
    "sample.view": ("digits", "slerp"),
    "sample.film": ("digits", True),
    "sample.start": ("digits", 0.75),
    "sample.concepts": ("digits_dcgan", (1, 2)),
    "sample.num_images": ("digits", 7),
    "eval.measure": ("digits", "samples"),
}
RENAMED = {old: new for old, new in renames.RENAMED_KEYS.items() if new}
OLD_VALUES = [
    (key, old, new)
    for key, names in renames.RENAMED_VALUES.items()
    for old, new in names.items()
]


def value(config, key):
    return functools.reduce(lambda node, part: node[part], key.split("."), config)


def set_stored(workdir, key, *new):
    """Takes a key out of config.json, or sets it, as an older version wrote it."""
    path = workdir / run_config.CONFIG
    stored = json.loads(path.read_text())
    *groups, name = key.split(".")
    node = value(stored, ".".join(groups)) if groups else stored
    node.pop(name, None)
    if new:
        (node[name],) = new
    path.write_text(json.dumps(stored))


def store(config, workdir):
    run_config.write_config(config, run_config.stored_fields(config, workdir), workdir)


def test_older_configs_are_completed(tmp_path):
    """A key that the stored config lacks has the config file's value; others stay."""
    store(load("digits", sample__num_examples=7), tmp_path)
    for key in ("eval.classifier", "sample.animation", "diffusion.self_condition"):
        set_stored(tmp_path, key)
    now = load("digits", sample__num_examples=3, eval__classifier="somewhere")
    found = run_config.read_config(tmp_path, now, {})
    assert found.eval.classifier == "somewhere" and found.sample.animation is False
    assert found.diffusion.self_condition is False
    assert found.sample.num_examples == 7
    store(now, tmp_path)  # and training goes on
    stored = json.loads((tmp_path / run_config.CONFIG).read_text())
    assert stored["sample"]["animation"] is False


def test_completed_configs_still_refuse(tmp_path):
    """A value that the weights depend on is compared as before."""
    store(load("digits"), tmp_path)
    set_stored(tmp_path, "diffusion.self_condition")
    words = r"another config \(diffusion.prediction: v -> eps\)"
    with pytest.raises(ValueError, match=words):
        run_config.compare_config(load("digits", diffusion__prediction="eps"), tmp_path)


def test_every_old_key_is_tested():
    """The table above has every renamed key."""
    assert OLD_KEYS.keys() == renames.RENAMED_KEYS.keys()


@pytest.mark.parametrize("key", OLD_KEYS)
def test_old_keys_of_stored_configs(key, tmp_path, caplog):
    """A stored config with an older version's key is read with its new name, and a
    sentence in the log names it."""
    name, old_value = OLD_KEYS[key]
    config, new = load(name), renames.RENAMED_KEYS[key]
    store(config, tmp_path)
    if new:
        set_stored(tmp_path, new)
    set_stored(tmp_path, key, old_value)
    with caplog.at_level(logging.INFO):
        found = run_config.read_config(tmp_path, config, {})
    assert f"config.{key} is now called {new or 'nothing'}." in caplog.text
    old_group, old_name = key.split(".")
    assert old_name not in found[old_group]
    if new:
        assert value(found, new) == old_value
        config.update_from_flattened_dict({new: old_value})
    store(config, tmp_path)  # and training goes on


def test_what_older_versions_did(tmp_path):
    """Where an older version had no key, a stored config says what it did, even if
    that is not today's default: no part of a folder was held out."""
    config = load("digits")
    store(config, tmp_path)
    set_stored(tmp_path, "data.held_out")
    assert run_config.read_config(tmp_path, config, {}).data.held_out == 0
    assert config.data.held_out > 0


def test_runs_before_there_was_a_dtype_stay_in_float32(tmp_path):
    """A DCGAN that was trained before it had a dtype is float32, though its config file
    is bfloat16 today; a family without a dtype gets none."""
    config = load("celeba_dcgan64")
    store(config, tmp_path)
    set_stored(tmp_path, "model.dtype")
    assert run_config.read_config(tmp_path, config, {}).model.dtype == "float32"
    assert run_config.compare_config(config, tmp_path) == {
        "model.dtype": ("float32", "bfloat16")
    }
    other = load("digits_vae")
    store(other, tmp_path)
    assert "dtype" not in run_config.read_config(tmp_path, other, {}).model


@pytest.mark.parametrize("key, old, new", OLD_VALUES)
def test_old_values_of_stored_configs(key, old, new, tmp_path):
    """A stored config with an older version's value is read with its new name."""
    config = load("digits")
    store(config, tmp_path)
    is_swept = key.startswith("eval.sweep.")
    set_stored(tmp_path, key, ["ddim", old] if is_swept else old)
    found = value(run_config.read_config(tmp_path, config, {}), key)
    assert list(found) == ["ddim", new] if is_swept else found == new


@pytest.mark.parametrize(
    "old, new",
    [
        ([-math.inf, math.inf], ()),
        ([-math.inf, 2.0], (-1000.0, 2.0)),
        ([-3.5, math.inf], (-3.5, 1000.0)),
        ([-3.5, 2.0], (-3.5, 2.0)),
    ],
)
def test_older_intervals_with_infinities(old, new, tmp_path):
    """Point 18: the infinities that older versions wrote into config.json, which is not
    JSON, are read as today's values; the run goes on, and writes JSON."""
    config = load("digits")
    store(config, tmp_path)
    set_stored(tmp_path, "sample.guidance_interval", old)
    found = run_config.read_config(tmp_path, config, {})
    assert tuple(found.sample.guidance_interval) == new
    methods.check(found)
    store(found, tmp_path)
    assert "Infinity" not in (tmp_path / run_config.CONFIG).read_text()


def parse(key, text, caplog):
    """Parses --config.KEY=TEXT; returns the flag with its new name, and the log."""
    argv = ["main.py", f"--config={CONFIGS['digits']}:tiny", f"--config.{key}={text}"]
    parsed = []
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        names = {name: getattr(flags, name) for name in flags.__all__}
        names["FLAGS"] = lambda argv: parsed.extend(argv) or argv[:1]
        patch.setattr(command_line, "flags", types.SimpleNamespace(**names))
        patch.setattr(logging.getLogger("diffusion_jax"), "propagate", True)
        command_line.parse_flags(argv)
    assert parsed[:2] == argv[:2]
    return parsed[2], caplog.text


@pytest.mark.parametrize("key", RENAMED)
def test_old_keys_on_the_command_line(key, caplog):
    """An older version's key is accepted, with a sentence that names the new one."""
    flag, log = parse(key, OLD_KEYS[key][1], caplog)
    assert flag == f"--config.{RENAMED[key]}={OLD_KEYS[key][1]}"
    assert f"--config.{key}" in log and f"is now called {flag}." in log


@pytest.mark.parametrize("key, old, new", OLD_VALUES)
def test_old_values_on_the_command_line(key, old, new, caplog):
    """An older version's value is accepted, with a sentence that names the new one."""
    form = "('ddim', '{}')" if key.startswith("eval.sweep.") else "{}"
    flag, log = parse(key, form.format(old), caplog)
    assert flag == f"--config.{key}={form.format(new)}"
    assert f"={form.format(old)} is now called {flag}." in log


def test_todays_names_are_left_alone(caplog):
    """A flag with today's names is passed on as it is, without a word."""
    for key, text in [("sample.task", "slerp"), ("data.source", "folder:samples")]:
        assert parse(key, text, caplog) == (f"--config.{key}={text}", "")


def test_dropped_key_on_the_command_line(caplog, capsys):
    """A key that no longer exists is refused with the known ones."""
    with pytest.raises(SystemExit, match="2"):
        parse("sample.concepts", "(1,2)", caplog)
    said = capsys.readouterr().err
    assert re.search("no 'concepts' in config.sample. Known: .*task", said)


def test_splits_of_two_domains():
    """Training reads train_split and train_split_b, evaluation split and split_b, also
    where two of them have the same name."""
    config = load(
        "digits_cyclegan",
        eval__split="train_even",
        eval__split_b="test",
        data__train_split_b="train_odd",
    )
    train_on, held_out = run_data.open_train(config), run_data.open_held_out(config)
    assert (len(train_on.a), len(train_on.b)) == (719, 719)
    assert (len(held_out.a), len(held_out.b)) == (719, 359)
    np.testing.assert_array_equal(
        train_on.a.arrays["image"], held_out.a.arrays["image"]
    )


def test_a_run_without_a_pool(tmp_path):
    """CycleGAN with pool_size 0 trains, saves and is restored."""
    config = load("digits_cyclegan", cyclegan__pool_size=0, train__sample_every=0)
    config.train.num_steps = 2
    train(config, tmp_path)
    assert runs.load(config, tmp_path, "last").step == 2
    state = restore(config, tmp_path, 2)
    assert int(state.step) == 2 and state.aux["a"]["pool"] == ()


def autoencoder(**changes):
    """A run of two steps, a checkpoint a step; its state has statistics."""
    config = load("digits_autoencoder", train__num_steps=2, train__save_every=1)
    config.train.sample_every = 0
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of an autoencoder of inverted digits."""
    workdir = tmp_path_factory.mktemp("trained")
    train(autoencoder(**{"data.source": "inverted:digits"}), workdir)
    return workdir


def initial(config):
    """A new state, on the host."""
    fields = run_data.open_train(config).fields
    method = methods.make(config, fields)
    new = functools.partial(states.initial, method)
    return jax.jit(new)(jax.random.key(config.seed))


def test_init_from(trained, tmp_path):
    """train.init_from copies the averaged parameters and the statistics of a group of
    another run at step 0, and only then: afterwards the run's own checkpoint counts."""
    other = runs.load(autoencoder(), trained, "last").variables
    still = {"optim.learning_rate": 1e-12, "train.init_from": f"net={trained}"}
    train(autoencoder(**still | {"train.num_steps": 1}), tmp_path)
    first = restore(autoencoder(), tmp_path, 1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-10)
    for part in (first.params, first.ema):
        jax.tree.map(close, part, other.params)
    state = initial(autoencoder())
    state = runs.replace_groups(state, runs.read_groups(state, f"net={trained}"))
    jax.tree.map(np.testing.assert_array_equal, state.model_state, other.state)
    assert jax.tree.leaves(other.state) and state.step == 0

    train(autoencoder(**{"train.init_from": "net=nosuch"}), tmp_path)
    assert restore(autoencoder(), tmp_path, 2).step == 2


@pytest.mark.parametrize(
    "init_from, error, words",
    [
        ("net", ValueError, "train.init_from=net must be written GROUP=WORKDIR"),
        ("net=", ValueError, "train.init_from=net= must be written GROUP=WORKDIR"),
        ("nosuch={}", ValueError, "group in train.init_from 'nosuch'. Known: net."),
        ("net=nosuch", FileNotFoundError, "nosuch"),
        ("net={}", ValueError, r"decoder_0.kernel is float32\[2, 16\]"),
    ],
)
def test_init_from_refuses(init_from, error, words, trained):
    """An unknown group, a missing run and another shape are refused in a sentence."""
    state = initial(autoencoder(**{"model.num_latents": 3}))
    with pytest.raises(error, match=words) as raised:
        runs.read_groups(state, init_from.format(trained))
    assert "\n" not in str(raised.value)


def test_fields_are_read_as_they_were_written(tmp_path):
    """fields.json gives back every field, hashable and equal."""
    fields = {
        "image": image_field((4, 8, 3)),
        "label": label_field(10),
        "points": Field((2,), np.float32, "points", axes=("frame",)),
    }
    config = load("digits")
    run_config.write_config(config, fields, tmp_path)
    found = run_config.stored_fields(config, tmp_path)
    assert found == fields
    assert set(found.values()) == set(fields.values())


def test_images_of_another_size(tmp_path, caplog):
    """Another factor than that of the training is worth a warning, the same is not."""
    config = load("digits_upsampler")
    run_config.write_config(config, run_data.open_train(config).fields, tmp_path)
    for factor, num_warnings in ((2, 0), (4, 1)):
        config.data.source = f"low_res:{factor}:digits"
        fields = run_data.open_held_out(config).fields
        run_config.warn_of_other_sizes(config, fields, tmp_path)
        assert len(caplog.messages) == num_warnings
    words = r"cond_image of low_res:4:digits are 2x2x1, .* low_res:2:digits, .* 4x4x1"
    assert re.search(words, caplog.text)


def test_images_that_are_not_square(tmp_path):
    """data.image_width is the width of images that are not square."""
    images = np.zeros((4, 8, 16, 1), np.uint8)
    np.savez(tmp_path / "wide.npz", images=images, test_images=images)
    config = load("digits", data__source=f"npz:{tmp_path}/wide.npz")
    with pytest.raises(ValueError, match="images are 8x16x1.*ask for 8x8x1"):
        run_data.open_train(config)
    config.data.image_width = 16
    for source in (run_data.open_train(config), run_data.open_held_out(config)):
        assert source.fields["image"].shape == (8, 16, 1)
    method = methods.make(config, source.fields)
    variables, _ = jax.eval_shape(method.init, jax.random.key(0))
    assert method.field.shape == (8, 16, 1) and variables.params


def test_a_longer_run_has_a_longer_schedule(tmp_path):
    """Point 2: what the file computes from train.num_steps follows a new number, or the
    learning rate would be 0 from the old end on; values set by hand stay."""
    config = load("digits_vae", train__num_steps=20)
    store(config, tmp_path)
    found = run_config.read_config(tmp_path, config, {"train.num_steps": 40})
    assert (found.optim.decay_start, found.optim.decay_end) == (20, 40)
    overrides = {"train.num_steps": 40, "optim.decay_end": 30}
    found = run_config.read_config(tmp_path, config, overrides)
    assert (found.optim.decay_start, found.optim.decay_end) == (20, 30)
    set_stored(tmp_path, "optim.decay_start", 5)
    found = run_config.read_config(tmp_path, config, {"train.num_steps": 40})
    assert (found.optim.decay_start, found.optim.decay_end) == (5, 40)

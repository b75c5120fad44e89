"""Plans of open configs: laws over any pictures, and runs on a small folder of them."""

import json
import logging

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from smoke import load

from diffusion_jax import main, methods, planning, run_config, run_data, task_runner
from diffusion_jax.data import loader
from diffusion_jax.data.base import image_field, label_field
from diffusion_jax.data.survey import Survey
from diffusion_jax.evaluators import copying
from diffusion_jax.methods.config import leave_open
from diffusion_jax.outputs.images import TITLE_HEIGHT
from diffusion_jax.sample import sample
from diffusion_jax.training_loop import train

VARIANTS = "", "vae", "dcgan", "cyclegan", "classifier"
MACHINES = [planning.Machine(is_cpu, n) for is_cpu in (True, False) for n in (1, 8)]
ON_CPU = planning.Machine(is_cpu=True, num_devices=1)
surveys = st.builds(
    Survey,
    num_train=st.integers(1, 10**6),
    held_out=st.sampled_from(["test", "validation", ""]),
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    same_size=st.booleans(),
    grey=st.booleans(),
    num_classes=st.integers(0, 2000),
    resizes=st.just(True),
)
# What a user may have set, of all families.
overrides = st.fixed_dictionaries(
    {},
    optional={
        "data.image_size": st.sampled_from([32, 48, 64, 128, 256]),
        "data.num_channels": st.sampled_from([1, 3]),
        "data.batch_size": st.sampled_from([8, 16]),
        "train.num_steps": st.integers(1, 10**6),
        "train.sample_every": st.sampled_from([0, 7]),
        "optim.ema_decay": st.just(0.5),
        "sample.num_examples": st.just(5),
    },
)


def survey(**changes):
    typical = Survey(5000, "test", 100, 100, same_size=False, grey=False, num_classes=0)
    return typical._replace(**changes)


def planned(variant, pictures, machine, **values):
    """The config of a variant with a plan; keys of values are GROUP__NAME."""
    config = load("folder", variant, **values)
    for key, value, _ in planning.plan(config, pictures, machine):
        config.update_from_flattened_dict({key: value})
    return config


def fields_of(config, num_classes):
    size = config.data.image_size, config.data.image_width or config.data.image_size
    image = image_field((*size, config.data.num_channels))
    label = label_field(max(num_classes, 1))
    if config.method == "cyclegan":
        return {"image_a": image, "image_b": image}
    return {"image": image, "label": label}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],  # a network takes a second
    suppress_health_check=[HealthCheck.too_slow],
)
@given(surveys, st.sampled_from(MACHINES), overrides)
def test_every_plan_is_valid(variant, pictures, machine, values):
    """Any pictures give a config without open values that passes the checks and whose
    networks can be built; batches are no larger than the pictures and split evenly;
    what the user has set stays; and every choice has a reason. Only a classifier
    refuses pictures, without classes."""
    config = load("folder", variant)
    config.update_from_flattened_dict(values)
    num = pictures.num_classes
    has_classes = 2 <= num <= 1000 and pictures.num_train >= 5 * num
    if variant == "classifier" and not has_classes:
        with pytest.raises(ValueError, match="needs classes.*subfolder"):
            planning.plan(config, pictures, machine)
        return
    choices = planning.plan(config, pictures, machine)
    assert all(choice.reason for choice in choices)
    keys = [choice.key for choice in choices]
    assert len(set(keys)) == len(keys) and not set(keys) & set(values)
    config.update_from_flattened_dict({x.key: x.value for x in choices})
    for key, value in values.items():
        group, name = key.split(".")
        assert config[group][name] == value
    assert not planning.open_keys(config)
    methods.check_training(config)
    fields = fields_of(config, pictures.num_classes)
    jax.eval_shape(methods.make(config, fields).init, jax.random.key(0))
    batch = config.data.batch_size
    if "data.batch_size" not in values:
        assert batch % machine.num_devices == 0
        assert batch <= max(pictures.num_train, machine.num_devices)
    train = config.train
    assert train.sample_every <= train.num_steps or "train.sample_every" in values
    assert train.evaluate_every in (0, train.num_steps)
    assert pictures.held_out or not train.evaluate_every
    image = next(field for field in fields.values() if field.kind == "image")
    if "data.image_size" not in values and not pictures.same_size:
        assert all(side % 8 == 0 and 32 <= side <= 256 for side in image.shape[:2])


@given(st.integers(32, 4000), st.integers(32, 4000))
def test_size_follows_the_pictures(height, width):
    """The sides are not larger than the pictures', their ratio is that of the pictures
    within a fifth (up to 2), and a CPU gets no more pixels than an accelerator."""
    areas = []
    for machine in (ON_CPU, planning.Machine(is_cpu=False, num_devices=1)):
        config = planned("", survey(height=height, width=width), machine)
        h, w = config.data.image_size, config.data.image_width or config.data.image_size
        ratio = min(max(width / height, 0.5), 2)
        assert 1 / 1.25 <= (w / h) / ratio <= 1.25
        assert min(h, w) <= min(height, width)
        areas.append(h * w)
    assert areas[0] <= areas[1]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"height": 500, "width": 500}, (32, None)),
        ({"height": 500, "width": 750}, (32, 48)),
        ({"height": 750, "width": 500}, (48, 32)),
        ({"height": 500, "width": 5000}, (32, 64)),
        ({"height": 20, "width": 20}, (32, None)),
        ({"height": 28, "width": 28, "same_size": True}, (28, None)),
        ({"height": 16, "width": 24, "same_size": True}, (16, 24)),
        ({"height": 640, "width": 640, "same_size": True}, (32, None)),
    ],
)
def test_sizes(changes, expected):
    """The cases of a size: square, wide, high, very wide, small, and exactly that."""
    data = planned("", survey(**changes), ON_CPU).data
    assert (data.image_size, data.image_width) == expected


def test_classes():
    """Folders are classes if there are at least two, with enough pictures each; the
    condition is then dropped, as guidance needs."""
    for num_classes, expected in ((0, 0), (1, 0), (2, 2), (500, 500), (2000, 0)):
        config = planned("", survey(num_classes=num_classes), ON_CPU)
        assert config.model.num_classes == expected
        assert bool(config.diffusion.cond_dropout) == bool(expected)
    config = planned("", survey(num_classes=2), ON_CPU, model__num_classes=0)
    assert config.diffusion.cond_dropout == 0


def test_copies_are_looked_for_among_few():
    """With few pictures, of which some are held out, the run ends with eval.metric."""
    for changes, expected in (
        ({"num_train": 999}, True),
        ({"num_train": 1000}, False),
        ({"num_train": 999, "held_out": ""}, False),
    ):
        every = planned("", survey(**changes), ON_CPU).train
        assert every.evaluate_every == (every.num_steps if expected else 0)


def test_other_configs_are_left_alone():
    """A config without open values is its own plan; None is no open value where it is
    the family's default."""
    config = load("digits", "")
    assert config.data.image_width is None and not planning.open_keys(config)
    assert planning.complete(config) is config


def test_what_cannot_be_planned_is_refused():
    """A family without rules, a key without a rule, and a source whose pictures cannot
    be surveyed are refused with the key or with the sources that can be."""
    config = load("digits_autoencoder", "")
    leave_open(config, "model.num_latents")
    with pytest.raises(ValueError, match=r"config\.model\.num_latents is None.*ddpm"):
        planning.complete(config)
    config = load("folder", "")
    leave_open(config, "diffusion.schedule")
    with pytest.raises(ValueError, match=r"config\.diffusion\.schedule is None"):
        planning.plan(config, survey(), ON_CPU)
    with pytest.raises(ValueError, match="grid25.*folder:PATH, npz:PATH"):
        planning.complete(load("folder", "", data__source="grid25"))
    with pytest.raises(ValueError, match="--config.data.source=folder:PATH"):
        planning.complete(load("folder", ""))
    config = load("folder", "cyclegan", data__source="digits")
    with pytest.raises(ValueError, match="--config.data.source_b=folder:PATH"):
        planning.complete(config)


def test_sources_in_memory_are_planned():
    """The plan of scikit-learn's digits: 8x8 pixels, grey, ten classes."""
    config = planning.complete(load("folder", "", data__source="digits"))
    assert config.data.image_size == 8 and config.data.image_width is None
    assert config.data.num_channels == 1 and config.model.num_classes == 10
    assert config.eval.split == "test"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of two classes: other sizes, grey, palettes, transparent, and a text."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    modes = "RGB", "RGBA", "L", "P", "LA"
    for i in range(40):
        folder = root / ("cats", "dogs")[i % 2]
        folder.mkdir(exist_ok=True)
        size = rng.integers(40, 90, 2)
        noise = rng.integers(0, 256, (*size, 3), np.uint8)
        image = Image.fromarray(noise).convert("RGBA").convert(modes[i % 5])
        image.save(folder / f"{i}.{'jpg' if i % 5 == 0 else 'png'}")
    (root / "cats/notes.txt").write_text("not a picture")
    return root


SHORT = {
    "data__batch_size": 8,
    "train__num_steps": 3,
    "model__base_channels": 8,
    "model__channel_multipliers": (1,),
    "sample__num_steps": 2,
    "sample__num_examples": 8,
    "sample__batch_size": 8,
}


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """A run of three steps on the pictures, with all else as planned."""
    workdir = tmp_path_factory.mktemp("run")
    train(load("folder", "", data__source=f"folder:{pictures}", **SHORT), workdir)
    return workdir


def test_a_folder_is_enough(run, pictures):
    """The run is stored with its plan, draws pictures during training and at the end,
    and compares them with the training pictures."""
    config = run_config.stored_config(run)
    assert config.data.image_size == 32 and config.data.num_channels == 3
    assert config.model.num_classes == 2 and config.diffusion.cond_dropout == 0.1
    assert not planning.open_keys(config)
    grid = Image.open(run / "samples/00000003.png")
    assert grid.mode == "RGB" and grid.height > grid.width  # a column for each class
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert 0 <= lines[-1]["test_copied_share"] <= 1
    nearest = Image.open(run / "nearest.png")
    assert max(nearest.size) >= 512  # 8 rows of a sample and its neighbour


def test_a_run_keeps_its_plan(run, pictures, caplog):
    """More pictures do not change the plan of a run, nor do other commands; and
    guidance works, since there are classes."""
    stored = run_config.stored_config(run).to_dict()
    source = {"data.source": f"folder:{pictures}"}
    config = load("folder", "", data__source=f"folder:{pictures}")
    found = run_config.read_config(run, config, source)
    assert json.loads(json.dumps(found.to_dict())) == stored
    assert found.model.attention_resolutions == (8,)  # JSON has lists
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train(found, run)
    assert "Planned" not in caplog.text and "Nothing is left to do" in caplog.text
    found.sample.guidance_scale = 2.0
    sample(found, run, run / "guided")
    assert (run / "guided/sample.png").exists()
    caplog.clear()
    config.train.num_steps = 3
    with caplog.at_level(logging.INFO):
        train(config, run)  # as from Python, where nothing has read the run's config
    assert "Planned" not in caplog.text and "Nothing is left to do" in caplog.text


def test_another_folder_needs_another_run(run, pictures, tmp_path):
    """A run of one folder does not go on with another one; other spellings of the same
    path, and no path, are allowed."""
    for source in (f"folder:{pictures}", f"folder:{pictures}/cats/..", "folder:PATH"):
        planning.check_source(load("folder", "", data__source=source), run)
    other = load("folder", "", data__source=f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="is a model of folder:.*--workdir="):
        planning.check_source(other, run)
    planning.check_source(load("digits", "", data__source="grid25"), run)


def test_mode_config_shows_the_plan(pictures, tmp_path, capsys):
    """--mode=config prints the planned config to stdout, and the plan to stderr."""
    config = load("folder", "", data__source=f"folder:{pictures}")
    main.MODES["config"](config.copy_and_resolve_references(), tmp_path, tmp_path)
    out, err = capsys.readouterr()
    assert json.loads(out)["data"]["image_size"] == 32
    assert "data.image_size  " in err and "model.num_classes  " in err
    assert "may copy" in err


def test_copies_are_found(tmp_path, monkeypatch):
    """A model that returns training pictures has a copied_share of 1 and a distance of
    0; one that returns held-out pictures has the held-out distance."""
    config = load("digits", "", sample__num_examples=30)
    fields = {"image": image_field((8, 8, 1)), "label": label_field(10)}
    method = methods.make(config, fields)
    sources = {"train": run_data.open_train, "test": run_data.open_held_out}
    for split, open_source in sources.items():
        source = open_source(config)
        drawn = loader.to_batch(source, np.arange(len(source))[-359:])
        runner = task_runner.TaskRunner(lambda _, x=drawn: x, fields, source)
        monkeypatch.setattr(task_runner, "make", lambda *_, x=runner, **__: x)
        (record,) = copying.make_copying(config, method, tmp_path)(None)
        found = record.metrics
        if split == "train":
            assert found["copied_share"] == 1 and found["nearest_distance"] == 0
        else:
            share = found["copied_share_real"]
            assert share == pytest.approx(0.05, abs=1 / 359)
            assert found["copied_share"] == share
            assert found["nearest_distance"] == found["nearest_distance_real"] > 0
        nearest = np.asarray(Image.open(tmp_path / "nearest.png"))[TITLE_HEIGHT:]
        cell = len(nearest) // 4  # two strips of four rows: a sample, its neighbour
        strips = nearest[:, : 2 * cell], nearest[:, -2 * cell :]
        for left, right in (np.hsplit(strip, 2) for strip in strips):
            assert np.array_equal(left, right) == (split == "train")

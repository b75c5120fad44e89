"""Training: what it refuses without a trace, and what an error or a signal leaves."""

import json
import logging
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from smoke import load, restore

from diffusion_jax import run_config, runs
from diffusion_jax import training_loop as training
from diffusion_jax.data.base import Field, LazySource, image_field, label_field
from diffusion_jax.training.checkpoints import SaveError
from diffusion_jax.training.lock import LockedError, locked
from diffusion_jax.training_loop import train


def small(**changes):
    """An autoencoder of digits: four steps, a checkpoint every two."""
    config = load("digits_autoencoder", train__log_every=1, train__sample_every=0)
    config.update_from_flattened_dict(changes)
    return config


def files(folder):
    """The content of every file below a folder, by path."""
    return {x: x.read_bytes() for x in sorted(folder.rglob("*")) if x.is_file()}


def steps(workdir):
    """The steps of the checkpoints, and of the lines of the log."""
    saved = sorted(int(x.name) for x in workdir.glob("checkpoints/*"))
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return saved, [json.loads(line)["step"] for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps; not to be changed."""
    workdir = tmp_path_factory.mktemp("trained")
    train(small(), workdir)
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    for path, content in files(trained).items():
        copy = tmp_path / path.relative_to(trained)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    return tmp_path


def test_speed_is_measured_in():
    """Images, tokens that are predicted (of a pair, those of the target, as many as the
    batch has, whatever the longest), or examples of anything else."""
    image, tokens = image_field((4, 4, 1)), Field((30,), np.int32, "tokens", size=9)
    batch = {"index": np.zeros((2, 3), np.int32), "target": np.zeros((2, 3, 12))}
    for fields, unit, number in (
        ({"image": image, "label": label_field(2)}, "images", 6),
        ({"source": tokens, "target": tokens}, "tokens", 6 * 11),
        ({"points": Field((2,), np.float32, "points")}, "examples", 6),
    ):
        found, count = training.unit_of(fields)
        assert (found, count(batch)) == (unit, number)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model.hidden": (8,)}, r"model.hidden: \(16,\) -> \(8,\)"),
        ({"autoencoder.noise_scale": 2.0}, "autoencoder.noise_scale: 1.0 -> 2.0"),
        ({"data.source": "inverted:nosuch"}, "nosuch"),
        ({"data.batch_size": 12}, "data.batch_size = 12"),
        ({"sample.task": "nosuch", "train.sample_every": 1}, "nosuch"),
        ({"eval.metric": "nosuch", "train.evaluate_every": 1}, "nosuch"),
    ],
)
def test_a_refusal_changes_nothing(run, changes, words):
    """Point 1: whatever is refused, every byte of the run stays as it was."""
    before = files(run)
    with pytest.raises(ValueError, match=words) as error:
        train(small(**{"train.num_steps": 6, **changes}), run)
    assert "\n" not in str(error.value)
    assert files(run) == before


def test_a_checkpoint_of_another_shape(run):
    """Point 1: where only the checkpoint shows that the config does not fit, nothing is
    written, and the keys that differ are named."""
    config = load("digits_cyclegan", train__sample_every=0)
    config.train.update(num_steps=2, evaluate_every=0)
    train(config, run / "cyclegan")
    before = files(run)
    config.data.batch_size = 16  # the pool holds a batch
    config.train.num_steps = 4
    with pytest.raises(ValueError, match="does not match the config") as error:
        train(config, run / "cyclegan")
    (note,) = error.value.__notes__
    assert "data.batch_size: 8 -> 16" in note and "train.num_steps: 2 -> 4" in note
    assert files(run) == before


def test_a_new_learning_rate_schedule(tmp_path, caplog):
    """Point 1: a schedule can be introduced on resume; it goes on from the step."""
    config = small(**{"optim.decay_start": None, "optim.decay_end": None})
    train(config, tmp_path)
    assert not restore(config, tmp_path, 4).opt_state["net"]["learning_rate"]
    config = small(**{"train.num_steps": 6})
    train(config, tmp_path)
    state = restore(config, tmp_path, 6)
    assert state.opt_state["net"]["learning_rate"].count == 6
    assert "Config changed: optim.decay_end: None -> 6, optim.decay_st" in caplog.text
    assert "opt_state.net.learning_rate.count starts as" in caplog.text
    stored = run_config.stored_config(tmp_path)
    assert stored.optim.decay_end == stored.train.num_steps == 6


BROKEN = [b"", b"{", b"[]", b"{}", b"3", b'"x"', b"\xff\xfe", b'{"name": "x"}', b"null"]
BROKEN += [
    b'{"name": "x", "method": [1], "data": {}}',
    b'{"name": "x", "method": "vae", "data": null}',
    b'{"name": "x", "method": "vae", "data": {}, "a.b": 1}',
]
WRONG = {  # values of another type than the config file's
    "data": [1],
    "train": "x",
    "data.source": 5,
    "optim.learning_rate": "fast",
    "model.hidden": 3,
    "eval.sweep": [1],
    "train.num_steps": 4.5,
    "data.flip": 1,
    "sample": None,
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_config(run, content):
    """Point 3: a config.json that cannot be read is named, with what to do, by every
    command, and stays as it is."""
    path = run / "config.json"
    path.write_bytes(content)
    before = files(run)
    for command in (
        lambda: train(small(), run),
        lambda: run_config.read_config(run, small(), {}),
        lambda: run_config.stored_config(run),
    ):
        with pytest.raises(ValueError, match="is damaged .*--mode=config > ") as error:
            command()
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert files(run) == before


@pytest.mark.parametrize("key", WRONG)
def test_a_config_of_another_shape(run, key):
    """Point 3: a value that has become another type is named by its key."""
    path = run / "config.json"
    stored = json.loads(path.read_text())
    *groups, name = key.split(".")
    node = stored[groups[0]] if groups else stored
    node[name] = WRONG[key]
    path.write_text(json.dumps(stored))
    before = files(run)
    for command in (
        lambda: train(small(), run),
        lambda: run_config.read_config(run, small(), {}),
    ):
        with pytest.raises(ValueError, match="is damaged") as error:
            command()
        assert key in str(error.value) or key == "data"
    assert files(run) == before


def test_numbers_of_another_type(run):
    """Point 3: an integer may stand for a number with a fraction."""
    path = run / "config.json"
    stored = json.loads(path.read_text())
    stored["optim"]["learning_rate"] = 1
    path.write_text(json.dumps(stored))
    changes = {"optim.learning_rate": 0.5}
    assert run_config.read_config(run, small(), changes).optim.learning_rate == 0.5


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"image": 3}', b'{"image": {}}'])
def test_damaged_fields(run, content):
    """Point 3: so is fields.json; training writes it again."""
    path = run / "fields.json"
    expected = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="fields.json is damaged .*train again"):
        runs.load(small(), run, "last")
    train(small(), run)
    assert path.read_bytes() == expected


def test_a_missing_config(run):
    """Point 3: checkpoints without a config are refused by every command: nobody knows
    what their weights mean."""
    (run / "config.json").unlink()
    before = files(run)
    for command in (
        lambda: train(small(), run),
        lambda: run_config.read_config(run, small(), {}),
    ):
        with pytest.raises(
            ValueError, match="has checkpoints, but .*config.json is mis"
        ):
            command()
    assert files(run) == before


def test_classes_that_have_other_numbers(tmp_path):
    """Point 12: if classes are added or renamed, the labels of a conditional run would
    mean other classes: it is refused, with the first of them."""
    for name in ("1", "2", "10"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            image = Image.new("L", (8, 8), 50 * i)
            image.save(tmp_path / "data" / name / f"{i}.png")
    source = {"data.source": f"folder:{tmp_path}/data", "data.train_split": "all"}
    config = load("digits_classifier", model__num_classes=4, train__sample_every=0)
    config.update_from_flattened_dict(source | {"train.num_steps": 2})
    train(config, tmp_path / "run")
    config.train.num_steps = 4
    (tmp_path / "data" / "2").rename(tmp_path / "data" / "two")
    before = files(tmp_path / "run")
    with pytest.raises(ValueError, match=r"\(1 was 2 and is 10\): rename or restore"):
        train(config, tmp_path / "run")
    assert files(tmp_path / "run") == before

    (tmp_path / "data" / "two").rename(tmp_path / "data" / "2")
    path = tmp_path / "run" / "fields.json"
    stored = json.loads(path.read_text())
    assert stored["label"].pop("names") == ["1", "2", "10"]
    path.write_text(json.dumps(stored))  # of a version that sorted them as text
    with pytest.raises(ValueError, match=r"\(1 was 10 and is 2\)"):
        train(config, tmp_path / "run")
    stored["label"]["names"] = ["1", "2", "10"]
    path.write_text(json.dumps(stored))
    train(config, tmp_path / "run")


def test_missing_checkpoints(run, caplog):
    """Point 4: training starts anew without its checkpoints, but log and samples are
    kept."""
    (run / "samples").mkdir()
    (run / "samples/00000004.png").touch()
    log = (run / "metrics.jsonl").read_bytes()
    (run / "checkpoints").rename(run / "away")
    train(small(), run)
    assert (run / "logs-before-1/metrics.jsonl").read_bytes() == log
    assert steps(run) == ([2, 4], [1, 2, 3, 4])
    assert (run / "logs-before-1/samples/00000004.png").exists()
    assert not (run / "samples").exists()
    assert "has logs but no checkpoints" in caplog.text


def test_more_held_out_data(run):
    """Point 16: a larger held-out part would contain images that were trained on."""
    with pytest.raises(ValueError, match=r"data.held_out: 0.1 -> 0.3"):
        train(small(**{"data.held_out": 0.3}), run)
    train(small(**{"data.held_out": 0.05}), run)


def test_two_trainings(run):
    """Point 5: a second training in the folder is refused, and changes nothing."""
    with locked(run):
        before = files(run)
        with pytest.raises(LockedError, match="Another training runs in"):
            train(small(**{"train.num_steps": 6}), run)
        assert files(run) == before


@pytest.mark.parametrize("num_steps, saved", [(3, [3]), (1, [1])])
def test_the_last_state_is_saved(tmp_path, num_steps, saved):
    """Point 6: with save_every = 0 only the end is saved, and that always."""
    train(small(**{"train.save_every": 0, "train.num_steps": num_steps}), tmp_path)
    assert steps(tmp_path) == (saved, list(range(1, num_steps + 1)))


class Broken:
    """A source of images in which one example cannot be read until it is mended."""

    def __init__(self, number):
        self.number, self.broken = number, True

    def open(self, config):
        fields = {"image": image_field((8, 8, 1)), "label": label_field(10)}

        def decode(i):
            if self.broken and i == self.number:
                raise ValueError("picture 7 cannot be read")
            image = np.random.default_rng(i).integers(0, 256, (8, 8, 1), np.uint8)
            return {"image": image, "label": np.int32(i % 10)}

        return LazySource(64, decode, fields)


def test_an_error_saves_the_state_before_it(tmp_path, monkeypatch, caplog):
    """Point 7: an error while training saves the last state and is raised with the
    place of that checkpoint; mended, the run ends as one without the error, bit for
    bit."""
    source = Broken(number=40)
    monkeypatch.setattr(training.run_data, "open_train", source.open)
    config = small(**{"train.num_steps": 8, "train.save_every": 100})
    with pytest.raises(ValueError, match="picture 7 cannot be read") as error:
        train(config, tmp_path / "run")
    (step,), lines = steps(tmp_path / "run")
    assert step < 8 and lines == list(range(1, step + 1))
    assert str(tmp_path / f"run/checkpoints/{step}") in error.value.__notes__[-1]

    source.broken = False
    for workdir in ("run", "calm"):
        train(config, tmp_path / workdir)
    found, expected = (restore(config, tmp_path / x, 8) for x in ("run", "calm"))
    found, expected = (
        jax.device_get(state.replace(key=jax.random.key_data(state.key)))
        for state in (found, expected)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert steps(tmp_path / "run")[1] == list(range(1, 9))


def test_a_failing_save_is_reported_once(tmp_path, monkeypatch):
    """Point 9: a save that fails is raised in one sentence that names the disk's error
    and the last good checkpoint; so it is if a signal has stopped the run."""
    save = ocp.CheckpointManager.save

    def fail(self, step, **options):
        if step > 2:
            raise OSError("no space left")
        return save(self, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    good = tmp_path / "checkpoints/2"
    words = rf"\(no space left\).* Last good checkpoint: {good}\."
    with pytest.raises(SaveError, match=words) as error:
        train(small(), tmp_path)
    assert not hasattr(error.value, "__notes__")

    iterate = training.Loader.iterate

    def stop(self, *steps):
        signal.raise_signal(signal.SIGTERM)
        yield from iterate(self, *steps)

    monkeypatch.setattr(training.Loader, "iterate", stop)
    with pytest.raises(SaveError, match=words):
        train(small(), tmp_path)


@pytest.mark.parametrize("what", ["evaluate_every", "sample_every"])
def test_a_signal_while_looking(tmp_path, monkeypatch, caplog, what):
    """Point 8: a signal while evaluating or sampling ends that at the next batch; the
    state has been saved, and the next start makes up for what is missing."""
    caplog.set_level(logging.INFO)
    config = small(**{f"train.{what}": 2, "train.save_every": 0})
    config.eval.metric = "samples"
    config.sample.update(num_examples=32, batch_size=8)
    name = "evaluate" if what == "evaluate_every" else "draw"
    make = getattr(training, f"make_{name}")
    interrupted = []

    def make_interrupted(*args):
        run = make(*args)

        def run_once_interrupted(*args):
            if not interrupted:
                interrupted.append(True)
                signal.raise_signal(signal.SIGTERM)
            return run(*args)

        return run_once_interrupted

    monkeypatch.setattr(training, f"make_{name}", make_interrupted)
    train(config, tmp_path)
    assert steps(tmp_path)[0] == [2]
    assert "Stopped by SIGTERM" in caplog.text and "Step 2, test" not in caplog.text
    train(config, tmp_path)
    assert steps(tmp_path)[0] == [2, 4]
    if name == "evaluate":
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        evaluated = [x for x in map(json.loads, lines) if "test_FD of pixels" in x]
        assert [x["step"] for x in evaluated] == [2, 4]
    else:
        images = {x.name: x.stat().st_mtime_ns for x in tmp_path.glob("samples/*")}
        assert sorted(images) == ["00000002.png", "00000004.png"]
        train(config, tmp_path)  # draws nothing again
        assert images["00000004.png"] == (
            (tmp_path / "samples/00000004.png").stat().st_mtime_ns
        )


def test_a_signal_before_the_first_step(tmp_path, monkeypatch):
    """Point 8: a signal during start-up ends it without compiling the step."""
    restore_latest = training.Checkpoints.restore_latest

    def restore_and_stop(self, template):
        signal.raise_signal(signal.SIGINT)
        return restore_latest(self, template)

    monkeypatch.setattr(training.Checkpoints, "restore_latest", restore_and_stop)
    monkeypatch.setattr(training.Loader, "iterate", pytest.fail)
    train(small(), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_scores_say_what_they_measure(tmp_path, caplog):
    """Point 10: after a change of what is evaluated, the best checkpoint is chosen
    among the scores of the new kind, and a sentence says so."""
    config = small(**{"train.evaluate_every": 2})
    train(config, tmp_path)
    config.update_from_flattened_dict({"eval.split": "train_odd", "train.num_steps": 6})
    config.eval.metric = "samples"
    config.data.train_split = "train_even"
    train(config, tmp_path)
    assert "measure something else (metric was reconstruction and is samples" in (
        caplog.text
    )
    assert runs.load(config, tmp_path, "best").step == 6
    stored = json.loads((tmp_path / "checkpoints/6/score.json").read_text())
    settings = stored["settings"]
    assert settings["metric"] == "samples" and settings["source"] == "digits"
    assert (
        settings["splits"] == ["train_even", "train_odd"] and "seconds" not in settings
    )

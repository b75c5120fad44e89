"""The command line: what its modes write, and what it refuses."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from documents import call_main
from PIL import Image
from smoke import CONFIGS, ROOT, Compiled, last_line
from smoke import load as load_config

from diffusion_jax import main, methods, run_config, runs
from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
from diffusion_jax.training_loop import train

CONFIG = CONFIGS["digits"]
# One level instead of two, and two steps: little to compile, and a tuple to parse.
SMALL = {"model.channel_multipliers": (1,), "train.num_steps": 2}
ARGUMENTS = [f"--config.{name}={value}" for name, value in SMALL.items()]


def load(**changes):
    config = load_config("digits")
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(scope="module")
def command():
    """Returns run(*args): the program as a process, (exit code, stdout, stderr)."""

    def run(*args, config=f"{CONFIG}:tiny", program=("-m", "diffusion_jax.main")):
        done = subprocess.run(
            [sys.executable, *program]
            + [f"--config={config}"] * bool(config)
            + [str(arg) for arg in args],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=1800,
        )
        return done.returncode, done.stdout, done.stderr

    return run


# Runs the program, and then the other commands on the run that it has trained.
SCRIPT = """
import pathlib, sys
from absl import app, flags
from diffusion_jax import command_line, main, run_config
from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
NEEDLESS = {"torch", "tensorflow", "matplotlib"}  # there are no curves of one point
def run(argv):
    main.main(argv)
    print("TRAINED")
    workdir = pathlib.Path(flags.FLAGS.workdir)
    for command in (sample, evaluate):
        command(run_config.stored_config(workdir), workdir)
    assert "diffusion_jax.training.logs" in sys.modules
    print("IMPORTED", sorted(NEEDLESS & set(sys.modules)))
app.run(run, flags_parser=command_line.parse_flags)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory, command):
    """The workdir of a run that a process trained, sampled and evaluated, and what the
    process printed."""
    workdir = tmp_path_factory.mktemp("command") / "run"
    code, stdout, stderr = command(
        f"--workdir={workdir}", *ARGUMENTS, program=("-c", SCRIPT)
    )
    assert code == 0, stderr
    return workdir, stdout


@pytest.fixture(scope="module")
def run(process):
    """The workdir of that run, and what training printed."""
    workdir, stdout = process
    return workdir, stdout.partition("TRAINED")[0]


@pytest.fixture
def compiled():
    """The names of the programs that jax has compiled during the test."""
    with Compiled() as names:
        yield names


@pytest.fixture
def call(monkeypatch):
    """Returns call(*args): the program in this process, with `config` unless the
    arguments give one."""

    def run(*args, config=f"{CONFIG}:tiny"):
        args = [str(x) for x in args]
        if config and not any(x.startswith("--config=") for x in args):
            args = [f"--config={config}", *args]
        call_main(args, monkeypatch)

    return run


@pytest.fixture
def refuse(call, compiled, capfd):
    """Returns refuse(*args): the one sentence with which the program in this process
    ends before it compiles anything, with exit code 2."""

    def run(*args, **kwargs):
        with pytest.raises(SystemExit) as error:
            call(*args, **kwargs)
        assert error.value.code == 2 and not compiled
        sentence = capfd.readouterr().err
        assert sentence.count("\n") == 1 and "Traceback" not in sentence
        return sentence

    return run


def images(workdir):
    with np.load(workdir / "sample.npz", allow_pickle=False) as arrays:
        assert list(arrays) == ["image"]
        return arrays["image"]


def override(workdir, **changes):
    return run_config.read_config(workdir, load(), changes)


def test_train(run):
    """Training writes config, metrics, checkpoints and images, and says where."""
    workdir, stdout = run
    assert json.loads((workdir / "config.json").read_text()) == json.loads(
        load().to_json()
    )
    fields = json.loads((workdir / "fields.json").read_text())
    assert fields["image"]["shape"] == [8, 8, 1] and fields["label"]["size"] == 10
    assert (workdir / "checkpoints/2").is_dir()
    assert Image.open(workdir / "samples/00000002.png").size == (520, 520)
    assert list((workdir / "tensorboard").iterdir())
    metrics = [json.loads(x) for x in (workdir / "metrics.jsonl").open()]
    assert metrics[-1]["step"] == 2 and metrics[-1]["loss"] > 0
    assert "step 2/2" in stdout and "images/s" in stdout
    assert str(workdir / "samples/00000002.png") in stdout
    assert "parameters" in stdout and "8 cpu devices" in stdout


def test_sample_command(run, call, capfd):
    """--mode=sample takes the run's config and values on top of it, among them that it
    writes an animation."""
    workdir, _ = run
    sampling = {
        "sampler": "ancestral",
        "num_steps": 4,
        "spacing": "trailing",
        "num_examples": 5,
        "seed": 3,
        "num_frames": 3,
        "animation": True,
    }
    overrides = [f"--config.sample.{name}={x}" for name, x in sampling.items()]
    before = (workdir / "config.json").read_text()
    call(f"--workdir={workdir}", "--mode=sample", *overrides)
    stdout = capfd.readouterr().out
    with np.load(workdir / "sample.npz", allow_pickle=False) as arrays:
        arrays = dict(arrays)
    assert arrays["image"].shape == (5, 8, 8, 1)
    assert arrays["frames"].shape == (5, 3, 8, 8, 1)
    assert all(x.dtype == np.uint8 for x in arrays.values())
    grid, animation = (Image.open(workdir / f"sample.{x}") for x in ("png", "gif"))
    assert animation.size == grid.size and animation.n_frames <= 3
    assert 2 * grid.width == 3 * grid.height  # three columns, two rows
    assert all(str(workdir / f"sample.{x}") in stdout for x in ("npz", "png", "gif"))
    assert (workdir / "config.json").read_text() == before


@pytest.fixture(scope="module")
def record(process):
    """What the process that evaluated the run printed last: a JSON line."""
    workdir, stdout = process
    record = json.loads(stdout.splitlines()[-2])
    assert last_line(workdir) == record
    return record


def test_evaluate_command(record):
    """Evaluation prints and appends one JSON line that stands by itself."""
    parts = record["prior"] + record["transitions"] + record["decoder"]
    assert record["bits_per_dim"] == pytest.approx(parts, rel=1e-6)
    assert record["bits_per_dim"] > 0 and record["standard_error"] > 0
    expected = {
        "config": "digits_tiny",
        "data": "digits",
        "metric": "vlb",
        "num_examples": 359,
        "num_terms": 4,
        "num_timesteps": 20,
        "parameters": "ema",
        "schedule": load().diffusion.schedule,
        "seed": 0,
        "split": "test",
        "step": 2,
        "variance": load().diffusion.variance,
    }
    assert expected.items() <= record.items()
    assert {"clipped", "date", "jax"} <= set(record)


def test_evaluate_on_train(run, record, call, capfd):
    """--mode=evaluate also evaluates the train split, and appends its line."""
    workdir, _ = run
    before = (workdir / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(before[0]) == record and record["num_examples"] == 359
    call(f"--workdir={workdir}", "--mode=evaluate", "--config.eval.split=train")
    lines = (workdir / "evaluations.jsonl").read_text().splitlines()
    assert lines[:-1] == before
    assert lines[-1] == capfd.readouterr().out.splitlines()[-1]
    assert last_line(workdir)["split"] == "train"
    assert last_line(workdir)["num_examples"] == 1438


def test_evaluate_samples(run):
    """Samples are compared with real images, with all settings that matter."""
    workdir, _ = run
    evaluate(override(workdir, **{"eval.metric": "samples"}), workdir)
    record = last_line(workdir)
    assert record["num_samples"] == 16 and record["num_real"] == 1797
    assert record["FD of pixels"] > record["FD of pixels, real"] > 0
    keys = "sampler num_steps spacing eta thresholding seed variance step config data"
    assert set(keys.split()) <= set(record)


def test_sweep(run):
    """A sweep is one line per combination of its values, and a plot; a wrong one is
    refused."""
    workdir, _ = run
    before = len((workdir / "evaluations.jsonl").read_text().splitlines())
    changes = {"eval.metric": "samples", "eval.sweep.num_steps": (1, 2)}
    evaluate(override(workdir, **changes), workdir)
    lines = (workdir / "evaluations.jsonl").read_text().splitlines()[before:]
    assert [json.loads(line)["num_steps"] for line in lines] == [1, 2]
    assert max(Image.open(workdir / "plots/sweep.png").size) >= 512
    for refused, words in (
        ({"eval.sweep.sampler": ("ddim", "nosuch")}, "nosuch.*ancestral"),
        ({"eval.metric": "vlb"}, "eval.sweep"),
        ({"sample.num_examples": 5}, "at least 6"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(override(workdir, **changes | refused), workdir)


def test_what_the_weights_depend_on_is_kept(run):
    """Point 2: a run's own value may be repeated, one fixed variance replaced by
    another, and dtype and dropout changed; no other value of the model and the process
    can change afterwards."""
    workdir, _ = run
    model = load().model
    override(workdir, **{"model.channel_multipliers": model.channel_multipliers})
    for variance in ("fixedsmall", "fixedlarge"):
        found = override(workdir, **{"diffusion.variance": variance})
        assert found.diffusion.variance == variance
    for free in ({"model.dropout": 0.5}, {"model.dtype": "bfloat16"}):
        override(workdir, **free)
    for changes in ({"diffusion.variance": "learned"}, {"model.base_channels": 16}):
        with pytest.raises(ValueError, match="cannot go on .* weights depend on it"):
            override(workdir, **changes)


def test_more_classes_than_the_network_knows(tmp_path):
    """Labels beyond model.num_classes are refused before there is a workdir."""
    config = load()
    config.model.num_classes = 5
    with pytest.raises(ValueError, match="has 10 classes.*num_classes is 5"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_samples_depend_on_seed_and_index_alone(run):
    """The same seed draws the same, and the first 5 of 20 are the 5 of 5."""
    workdir, _ = run
    (workdir / "sample.gif").unlink(missing_ok=True)
    drawn = {}
    for number, seed in [(5, 0), (20, 0), (5, 1)]:
        changes = {"sample.num_examples": number, "sample.seed": seed}
        sample(override(workdir, **changes, **{"sample.num_steps": 2}), workdir)
        drawn[number, seed] = images(workdir)
        assert images(workdir).shape == (number, 8, 8, 1)
    assert np.array_equal(drawn[20, 0][:5], drawn[5, 0])
    assert not np.array_equal(drawn[5, 1], drawn[5, 0])
    assert not (workdir / "sample.gif").exists()  # only on request


def test_needless_imports(process):
    """A process that trains, samples and evaluates has imported neither torch nor
    tensorflow, nor matplotlib if there is nothing to plot."""
    assert process[1].splitlines()[-1] == "IMPORTED []"


def test_mode_config(call, compiled, tmp_path, capfd):
    """--mode=config prints every value as strict JSON (point 18), after all overrides,
    and runs nothing."""
    call(f"--workdir={tmp_path}/run", "--mode=config", *ARGUMENTS)
    expected = load().copy_and_resolve_references().to_dict()
    printed = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)
    assert printed == json.loads(json.dumps(expected))
    assert not compiled and not (tmp_path / "run").exists()


def test_help(command):
    """--help names the modes and shows how to set a value."""
    code, stdout, _ = command("--help", config=None)
    assert code in (0, 1)  # absl exits with 1
    for words in [*(f"--mode={mode}" for mode in main.MODES), "--workdir"]:
        assert words in stdout
    assert "--config.sample.sampler=" in stdout and "configs/digits.py" in stdout


def test_mistyped_key_stops_the_process(command, tmp_path):
    """One sentence with the known keys, a failing exit, and no workdir."""
    code, stdout, stderr = command(
        f"--workdir={tmp_path}/run", "--config.train.num_step=3"
    )
    assert code != 0 and not (tmp_path / "run").exists()
    said = (stdout + stderr).strip()
    assert "'num_step'" in said and "log_every, num_steps" in said
    assert "Traceback" not in said


REFUSED = [
    ("mistyped key", ["--config.train.num_step=3"], "'num_step'.*num_steps"),
    ("mistyped group", ["--config.trian.num_steps=3"], "'trian'.*train"),
    ("key in a value", ["--config.seed.x=3"], "seed.*'x'"),
    (
        "no integer",
        ["--config.train.num_steps=1e3"],
        "steps = 1e3 must be an integer",
    ),
    ("no number", ["--config.optim.learning_rate=x"], "_rate = x must be a number."),
    ("no bool", ["--config.data.flip=maybe"], "flip = maybe must be true or false."),
    (
        "named class",
        ["--config.sample.label=cat"],
        "cat must be the number of a class",
    ),
    ("unknown flag", ["--stepz=3"], "stepz"),
    ("no coordinator", ["--num_processes=2"], "require --coordinator"),
    ("process 0 alone", ["--process_id=0"], "require --coordinator"),
    ("output of train", ["--output=x"], "--output has no effect with --mode=train"),
    ("name", ["--config.name=../x"], "config.name = '../x' must consist of letters"),
    ("dtype", ["--config.model.dtype=float99"], "model.dtype 'float99'. Known: floa"),
    ("metric", ["--config.eval.metric=fd"], "eval.metric of a ddpm 'fd'. Known: vlb"),
    ("unknown mode", ["--mode=draw"], "draw.*train.*sample.*evaluate"),
    ("stray word", ["digits"], "digits"),
    ("no config file", ["--config=nosuch.py"], "nosuch.py"),
    ("unknown variant", [f"--config={CONFIG}:huge"], "'huge'.*tiny"),
    ("no folder", ["--config.data.source=folder:nosuch"], "nosuch"),
    ("unknown source", ["--config.data.source=nosuch"], "nosuch.*digits, .*tfds"),
    ("unknown name", ["--config.sample.sampler=dimm"], "dimm.*ancestral, ddim"),
]


@pytest.mark.parametrize(
    "args, words", [x[1:] for x in REFUSED], ids=[x[0] for x in REFUSED]
)
def test_refused_before_compilation(refuse, tmp_path, args, words):
    """Point 19: a wrong command line is refused at once, and leaves no workdir."""
    workdir = tmp_path / "run"
    said = refuse(f"--workdir={workdir}", *args)
    assert re.search(words, said), said
    assert not workdir.exists()


def test_a_workdir_that_is_no_folder(refuse, tmp_path):
    """Point 19: an empty --workdir and one that is a file raise a clear error."""
    (tmp_path / "file").touch()
    assert "--workdir is empty" in refuse("--workdir=")
    assert "is a file, not a folder" in refuse(f"--workdir={tmp_path}/file")


def test_config_is_required(command):
    """The error without --config names the flag."""
    code, stdout, stderr = command(config=None)
    assert code != 0 and "--config" in stdout + stderr


def test_names_of_older_versions(call, run, caplog, monkeypatch):
    """A command with an older version's key and value does what it did."""
    monkeypatch.setattr(logging.getLogger("diffusion_jax"), "propagate", True)
    (run[0] / "sample.npz").unlink(missing_ok=True)
    options = ["--config.sample.view=samples", "--config.sample.film=False"]
    call(f"--workdir={run[0]}", "--mode=sample", *options)
    assert images(run[0]).shape == (16, 8, 8, 1)
    assert "--config.sample.view=samples is now called" in caplog.text


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
def test_no_run(refuse, mode, tmp_path):
    """Without a run there is nothing to sample from or to evaluate."""
    said = refuse(f"--workdir={tmp_path}/nosuch", f"--mode={mode}")
    assert re.search("No run in .*nosuch.*Train first", said)


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate"])
def test_run_of_another_config(refuse, mode, run):
    """The run in the workdir must have the config that is named."""
    cifar10 = f"{ROOT}/configs/cifar10.py:tiny"
    said = refuse(f"--workdir={run[0]}", f"--mode={mode}", config=cifar10)
    assert "'digits_tiny', not 'cifar10_tiny'" in said


def test_changed_model_is_refused(run, compiled):
    """A run cannot go on with another model; the old config stays."""
    workdir, _ = run
    before = (workdir / "config.json").read_text()
    with pytest.raises(ValueError, match="base_channels: 8 -> 16.*another --workdir"):
        train(load(**{"model.base_channels": 16}), workdir)
    assert (workdir / "config.json").read_text() == before
    with pytest.raises(ValueError, match="with .* .model.base_channels: 8 -> 16"):
        sample(override(workdir, **{"model.base_channels": 16}), workdir)
    assert "jit(initial)" not in compiled


def test_changed_number_of_steps_is_allowed(run, tmp_path):
    """A run can be made longer."""
    workdir = shutil.copytree(run[0], tmp_path / "longer")
    train(load(**{"train.num_steps": 3}), workdir)
    assert json.loads((workdir / "config.json").read_text())["train"]["num_steps"] == 3
    assert (workdir / "checkpoints/3").is_dir()
    train(load(), workdir)  # back to 2 steps: nothing is left to do, nothing is lost
    assert (workdir / "checkpoints/3").is_dir()


def test_resuming_from_the_workdir(run, tmp_path, call, capfd):
    """Point 2: a training goes on with the values of its run, without their overrides;
    only what differs is printed."""
    workdir = shutil.copytree(run[0], tmp_path / "longer")
    changes = ["--config.train.num_steps=3", "--config.model.dropout=0.1"]
    call(f"--workdir={workdir}", *changes)
    said = capfd.readouterr().out
    assert "Config changed: model.dropout: 0.0 -> 0.1, train.num_steps: 2 -> 3." in said
    assert f"has others: model.channel_multipliers = {(1,)} (file: (1, 2))" in said
    assert "RESUMING" in said and "learning_rate" not in said
    stored = run_config.stored_config(workdir)
    assert stored.model.channel_multipliers == [1] and stored.train.num_steps == 3
    assert (workdir / "checkpoints/3").is_dir()


def test_output(run, tmp_path, call, monkeypatch):
    """Point 9: with --output sampling and evaluation change nothing in the run's
    folder; a file has the settings of the samples; a folder that cannot be written is
    found out before anything is loaded."""
    workdir, output = run[0], tmp_path / "deep" / "output"
    before = {x: x.read_bytes() for x in workdir.rglob("*") if x.is_file()}
    shorter = "--config.sample.num_steps=3"
    call(f"--workdir={workdir}", "--mode=sample", f"--output={output}", shorter)
    found = json.loads((output / "sample.json").read_text())
    assert (found["step"], found["num_steps"]) == (2, 3) and "prompt" not in found
    changes = {"eval.metric": "rate_distortion"}
    evaluate(override(workdir, **changes), workdir, output)
    assert {x: x.read_bytes() for x in workdir.rglob("*") if x.is_file()} == before
    names = {"sample.npz", "sample.png", "evaluations.jsonl", "rate_distortion.csv"}
    assert names <= {x.name for x in output.iterdir()}
    assert last_line(output)["metric"] == "rate_distortion"

    (tmp_path / "file").touch()
    monkeypatch.setattr(runs, "load", pytest.fail)
    for command in (sample, evaluate):
        with pytest.raises(OSError, match="cannot be written .*--output"):
            command(override(workdir), workdir, tmp_path / "file" / "x")


def test_missing_data_set(refuse, tmp_path):
    """A TFDS data set that is not prepared: one sentence with the command that does."""
    said = refuse(
        f"--workdir={tmp_path}/run",
        f"--config.data.data_dir={tmp_path}",
        config=ROOT / "configs/cifar10.py",
    )
    assert "tfds build cifar10" in said
    assert not (tmp_path / "run").exists()


def test_batch_that_cannot_be_split(refuse, tmp_path):
    """A batch that cannot be split evenly over the devices is refused."""
    said = refuse(f"--workdir={tmp_path}/run", "--config.data.batch_size=12")
    assert re.search("data.batch_size = 12 .*8 devices", said)
    said = refuse(f"--workdir={tmp_path}/run", "--config.data.batch_size=0")
    assert "batch_size" in said


def test_unknown_metric_and_checkpoint(run):
    """Names that are read late are refused as well."""
    workdir, _ = run
    for name in ("metric", "checkpoint"):
        with pytest.raises(ValueError, match="'nosuch'. Known: .*(vlb|best)"):
            evaluate(override(workdir, **{f"eval.{name}": "nosuch"}), workdir)
    with pytest.raises(FileNotFoundError, match="best.*train.evaluate_every"):
        sample(override(workdir, **{"sample.checkpoint": "best"}), workdir)


def test_prior(run, record):
    """The prior lies between that of x_0^2 = 0 and of x_0^2 = 1."""
    workdir, _ = run
    config = override(workdir)
    method = methods.make(config, run_config.stored_fields(config, workdir))
    logsnr = float(method.schedule(np.asarray(20)))
    alpha2, sigma2 = 1 / (1 + np.exp(-logsnr)), 1 / (1 + np.exp(logsnr))
    low, high = (  # KL(N(alpha x, sigma^2) || N(0, 1)), in bits
        0.5 * (alpha2 * x + sigma2 - 1 - np.log(sigma2)) / np.log(2) for x in (0, 1)
    )
    assert low < record["prior"] < high


def test_another_size_has_no_effect_on_samples(run, tmp_path, call, capfd):
    """A size that a sample cannot have is said to have no effect; the run's own is
    drawn."""
    options = f"--output={tmp_path}", "--config.data.image_size=16"
    call(f"--workdir={run[0]}", "--mode=sample", *options)
    said = capfd.readouterr().out
    assert "data.image_size = 16 has no effect" in said and "images of 8x8x1" in said
    with np.load(tmp_path / "sample.npz") as arrays:
        assert arrays["image"].shape[1:] == (8, 8, 1)

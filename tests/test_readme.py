"""The README and the docs: their commands run, their links and figures exist."""

import importlib.util
import logging
import os
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from documents import ROOT, call_main, find_blocks, find_commands
from PIL import Image

from diffusion_jax import evaluators, main, methods, run_config
from diffusion_jax.data.base import image_field, label_field
from diffusion_jax.diffusion import (
    guidance,
    losses,
    process,
    samplers,
    schedules,
    time_samplers,
    timesteps,
)

README = (ROOT / "README.md").read_text()
# Every command on these pages is run, or checked where it cannot be.
PAGES = {
    name: (ROOT / f"docs/{name}.md").read_text()
    for name in (
        *("start", "commands", "configs", "data", "evaluation", "devices", "cost"),
        *("diffusion", "results", "tour"),
    )
}
TEXT = "\n".join([README, *PAGES.values()])
# These install, download or need another machine. The files they name are checked.
NOT_RUN = (
    "git clone",
    "cd ",
    "source .venv",
    "pip install",
    "apt",
    "sudo apt",
    "tfds build",
)
# Values that take long or need other data, and their replacements at :tiny.
SMALL = {
    "train.num_steps": "2",
    "train.evaluate_every": "1",
    "train.init_from": "net=runs/digits_tiny",
    "sample.num_steps": "4",
    "sample.num_examples": "9",
    "sample.num_frames": "2",
    "eval.num_terms": "3",
    "data.source": "digits",
    "data.image_size": "8",
    "data.num_channels": "1",
    "data.batch_size": "8",
}
# A U-Net of one level has little to trace and compile.
ONE_LEVEL = "--config.model.channel_multipliers=(1,)"
RUN = ("--config=", "--workdir=", ONE_LEVEL)  # what the run of a command depends on


def words_of(line):
    """The words of a command, without the variables set before it."""
    words = shlex.split(line)
    while re.match(r"\w+=", words[0]):
        del words[0]
    return words


COMMANDS = find_commands(TEXT)
MAIN = [words_of(line) for line in COMMANDS if "-m diffusion_jax.main" in line]
LAUNCH = [words_of(line) for line in COMMANDS if re.search(r"\blaunch/", line)]
EXAMPLES = [words_of(line) for line in COMMANDS if "python examples/" in line]


def joined(values):
    return [" ".join(words) for words in values]


def config_of(argument):
    """The config named by configs/NAME.py[:VARIANT], with or without --config=."""
    path, _, variant = argument.removeprefix("--config=").partition(":")
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def check_arguments(words):
    """Checks that a command's config, keys, flags and mode exist."""
    if "--mode=compare" in words:  # its arguments are folders of runs, not a config
        folders = [word for word in words if not word.startswith("--")]
        assert len(folders) > 1 and all(x.startswith("runs/") for x in folders)
        return
    config = config_of(next(word for word in words if "configs/" in word))
    for word in words:
        name, _, value = word.partition("=")
        if name.startswith("--config."):
            run_config.check_keys(config, [name.removeprefix("--config.")])
        elif name.startswith("--"):
            assert name[2:] in flags.FLAGS, f"{name} is not a flag"
            assert name != "--mode" or value in main.MODES


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_run(line):
    """Every command is run by the tests or by CI, or is one that cannot be."""
    words = words_of(line)
    here = words in MAIN + LAUNCH + EXAMPLES
    assert here or line.startswith(NOT_RUN), "who runs it? See tests/test_readme.py"


@pytest.mark.parametrize("words", LAUNCH, ids=joined(LAUNCH))
def test_launch_command(words):
    """The script exists and parses, and the program understands its arguments.

    CI runs local.sh and test.sh; test_launch.py checks what the scripts pass on.
    """
    number = next(i for i, word in enumerate(words) if word.startswith("launch/"))
    subprocess.run(["bash", "-n", ROOT / words[number]], check=True)
    if words[number] == "launch/test.sh":
        assert "bash launch/test.sh" in (ROOT / ".ci/run").read_text()
    else:
        check_arguments(words[number + 1 :])


@pytest.mark.parametrize("words", EXAMPLES, ids=joined(EXAMPLES))
def test_example_command(words):
    """The example exists; tests/test_examples.py runs it."""
    assert (ROOT / words[1]).is_file()


def test_commands_of_main(tmp_path, monkeypatch):
    """Every command is valid; those on digits run, in order, at :tiny.

    The first one runs in a process of its own, as a user would run it, the others in
    this process. The Python blocks of the README and of docs/families.md use the runs
    that are left.
    """
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    call, trained = call_process, set()
    for words in MAIN:
        arguments = words[words.index("diffusion_jax.main") + 1 :]
        check_arguments(arguments)
        if "--mode=compare" in arguments:  # runs that commands above it have trained
            call(
                [re.sub("(?<=runs/)digits$", "digits_tiny", x) for x in arguments],
                monkeypatch,
            )
            continue
        config = next(word for word in arguments if word.startswith("--config="))
        if not config.startswith("--config=configs/digits"):
            continue  # test_configs.py trains the others at :tiny
        small = [shrunk(word) for word in arguments]
        if config == "--config=configs/digits.py":
            small.append(ONE_LEVEL)
        run = [word for word in small if word.startswith(RUN)]
        if tuple(run) not in trained and any("--mode=" in word for word in small):
            call(run, monkeypatch)
            call = call_main
        call(small, monkeypatch)
        call = call_main
        trained.add(tuple(run))
    (block,) = find_blocks("python", README)
    exec(block.replace("runs/digits", "runs/digits_tiny"), found := {})
    assert found["images"].shape == (16, 8, 8, 1)
    for block in find_blocks("python", (ROOT / "docs/families.md").read_text()):
        exec(block.replace("runs/digits_vae", "runs/digits_vae_tiny"), {})
    assert (tmp_path / "runs/digits_vae_tiny/arithmetic.png").exists()


@pytest.mark.parametrize(
    "page, config", [("text", "python_docs_gpt"), ("text_to_image", "digits_dalle")]
)
def test_models_from_python(page, config, tmp_path, monkeypatch, capsys):
    """The Python block of a page runs; that of text prints the prompt, continued."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    call_main([f"--config=configs/{config}.py:tiny"], monkeypatch)
    capsys.readouterr()
    (block,) = find_blocks("python", (ROOT / f"docs/{page}.md").read_text())
    found = {}
    exec(block.replace(f"runs/{config}", f"runs/{config}_tiny"), found)
    if page == "text":
        assert capsys.readouterr().out.startswith("The for statement")
    else:
        assert found["images"].shape == (10, 8, 8, 1)


def test_python_page(tmp_path, monkeypatch):
    """The first block of docs/python.md trains, samples and draws, here at :tiny; the
    second one shows the log; the third one is a config."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/python.md").read_text()
    first, log, second = find_blocks("python", page)
    found = {}
    exec(first.replace("get_config()", 'get_config("tiny")'), found)
    assert found["again"].shape == found["images"].shape == (16, 8, 8, 1)
    assert found["rows"].shape == (8, 9, 8, 8, 1)
    assert (tmp_path / "runs/digits_vae/rows.png").exists()
    exec(second, found)
    methods.check(found["get_config"]())
    logger = logging.getLogger("diffusion_jax")
    monkeypatch.setattr(logger, "level", logger.level)  # restored afterwards
    exec(log, found)
    assert logger.level == logging.INFO


# Networks of a few weights for the variants of configs/folder.py, which learn 16x16
# pixels in two steps.
SMALL_NETWORKS = {
    "": ["base_channels=8", "channel_multipliers=(1,)", "num_blocks=1"],
    ":vae": ["channels=(4,)", "strides=(2,)"],
    ":dcgan": ["width=4"],
    ":cyclegan": ["base_channels=4", "num_blocks=1", "disc_channels=4"],
    ":classifier": ["channels=(4,)"],
}
SMALL_RUN = {
    "data.image_size": "16",
    "data.batch_size": "8",
    "train.num_steps": "2",
    "sample.num_examples": "8",
    "sample.num_steps": "4",
}


def test_commands_of_own_pictures(tmp_path, monkeypatch):
    """All commands of docs/own_pictures.md run, in order, on a small folder."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for i in range(24):
        folder = tmp_path / f"PATH/{'ab'[i % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    page = (ROOT / "docs/own_pictures.md").read_text()
    trained = set()
    for line in "".join(find_blocks("bash", page)).splitlines():
        words = shlex.split(line.replace("PATH", str(tmp_path / "PATH")))
        while re.match("[A-Z]+=", words[0]):  # variables of the launch script
            del words[0]
        if words[0] == "bash":  # launch/local.sh CONFIG [WORKDIR]
            config, words = words[2], words[3:]
        else:  # python -m diffusion_jax.main --config=CONFIG
            config, words = words[3].removeprefix("--config="), words[4:]
        if not words[0].startswith("--"):
            words[0] = f"--workdir={words[0]}"
        variant, small = config.removeprefix("configs/folder.py"), dict(SMALL_RUN)
        if variant:
            del small["sample.num_steps"]
        if "num_frames" in line:
            small["sample.num_frames"] = "2"
        if "num_steps=8000" in line:  # the run goes on
            small["train.num_steps"] = "3"
        network = [f"--config.model.{x}" for x in SMALL_NETWORKS[variant]]
        if "--mode=sample" in line or "--mode=evaluate" in line:
            small = {key: x for key, x in small.items() if key.startswith("sample")}
            network = []
        replaced = tuple(f"--config.{key}=" for key in small)
        unchanged = [word for word in words if not word.startswith(replaced)]
        added = [f"--config.{key}={x}" for key, x in small.items()]
        call_main([f"--config={config}", *unchanged, *added, *network], monkeypatch)
        trained.add(variant)
    assert len(trained) == len(SMALL_NETWORKS)
    for path in (
        "folder/sample.gif",
        "folder/nearest.png",
        "large/samples/00000002.png",
    ):
        assert (tmp_path / "runs" / path).exists()
    assert (tmp_path / "runs/folder/samples/00000003.png").exists()
    for name in ("folder_vae", "folder_dcgan"):
        assert (tmp_path / f"runs/{name}/samples/00000002.png").exists()
        assert (tmp_path / f"runs/{name}/nearest.png").exists()
    assert (tmp_path / "runs/folder_cyclegan/a_to_b.png").exists()


def shrunk(word):
    """The same argument at :tiny."""
    name, _, _ = word.partition("=")
    key = name.removeprefix("--config.")
    if name == "--config":
        return word.removesuffix(":tiny") + ":tiny"
    return f"{name}={SMALL[key]}" if key in SMALL else word


def call_process(arguments, monkeypatch):
    """Runs the program as a process in the working directory."""
    done = subprocess.run(
        [sys.executable, "-m", "diffusion_jax.main", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (arguments, done.stderr)


def test_links_and_figures():
    """Everything that the README links to or shows is in the repository."""
    links = re.findall(r"\]\(([^)#\s]+)", README)
    paths = [link for link in links if not re.match(r"\w+:", link)]
    assert any(path.endswith((".png", ".gif")) for path in paths), "it shows no image"
    tops = "configs|diffusion_jax|examples|launch|tests"
    paths += re.findall(rf"`((?:{tops})/[\w./-]+\w)`", TEXT)
    assert "@@" not in README, "a placeholder is left"
    for path in paths:
        assert (ROOT / path).exists(), f"{path} does not exist"


def test_first_screen():
    """The first screen shows an image and the two commands, which CI runs."""
    screen = "\n".join(README.splitlines()[:45])
    assert "bash launch/local.sh configs/digits.py" in screen
    assert "bash launch/test.sh" in screen
    assert re.search(r"\.(png|gif)\b", screen)


def test_functions_named():
    """The functions that the tour of the code names exist."""
    modules = "process|losses|samplers|gaussians|guidance|sampling|editing"
    for module, name in re.findall(rf"`({modules})\.(\w+)", PAGES["tour"]):
        module = importlib.import_module(f"diffusion_jax.diffusion.{module}")
        assert hasattr(module, name), f"{module.__name__} has no {name}"


@pytest.mark.parametrize(
    "key, choices",
    [
        ("diffusion.schedule", schedules.SCHEDULES | schedules.CURVES),
        ("diffusion.prediction", process.PREDICTIONS),
        ("diffusion.variance", process.VARIANCES | process.LEARNED_VARIANCES),
        ("diffusion.loss", losses.LOSSES),
        ("diffusion.timestep_sampler", time_samplers.TIMESTEP_SAMPLERS),
        ("sample.sampler", samplers.SAMPLERS),
        ("sample.spacing", timesteps.SPACINGS),
        ("sample.thresholding", guidance.THRESHOLDING),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_table_of_choices(key, choices):
    """The page lists every value of an option."""
    lines = PAGES["diffusion"].splitlines()
    row = next(line for line in lines if line.startswith(f"| `{key}` |"))
    assert set(choices) <= set(re.findall(r"\w+", row))


def test_table_of_tasks_and_metrics():
    """The page lists every metric, and every task that a family can write."""
    names = set(re.findall(r"\w+", PAGES["commands"]))
    assert set(evaluators.EVALUATORS) <= names
    tasks = {name for family in methods.FAMILIES.values() for name in family.tasks}
    for_metrics = {"log_likelihood", "nats", "target_nats"}  # such as ode_likelihood
    assert tasks - for_metrics <= names


def test_rows_added(monkeypatch):
    """The page's sampler, schedule and prediction are found by name, train and
    sample."""
    for module, table in (
        (samplers, "SAMPLERS"),
        (schedules, "SCHEDULES"),
        (process, "PREDICTIONS"),
    ):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    before = len(samplers.SAMPLERS)
    for block in find_blocks("python", PAGES["diffusion"]):
        exec(block, {})
    assert len(samplers.SAMPLERS) == before + 1
    config = config_of("configs/digits.py:tiny")
    config.model.update(base_channels=8, channel_multipliers=(1,))
    config.sample.update(sampler="noiseless")
    config.diffusion.update(schedule="slow", prediction="minus_eps")
    fields = {"image": image_field((8, 8, 1)), "label": label_field(10)}
    method = methods.make(config, fields)
    task = methods.make_task(config, method, "sample")

    @jax.jit
    def train_and_sample(key, batch):
        keys = jax.random.split(key, 3)
        variables, aux = method.init(keys[0])
        loss = method.loss("net", variables, aux, batch, keys[1], 0).value
        return loss, task.run(variables, batch, keys[2])["image"]

    batch = {
        "index": np.arange(2, dtype=np.int32),
        "image": np.zeros((2, 8, 8, 1), np.float32),
    }
    loss, image = train_and_sample(jax.random.key(0), batch)
    # The network predicts 0 at initialisation: the loss is the variance of the noise.
    assert 0.7 < loss < 1.3
    assert np.isfinite(image).all()


def test_table_of_errors():
    """The table of the samplers' errors is the file that the command wrote."""
    table = (ROOT / "docs/sampler_errors.md").read_text()
    assert table in (ROOT / "docs/diffusion_results.md").read_text()


DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_docs(path):
    """The commands above the tables are valid, and the images and links exist."""
    text = path.read_text()
    assert "@@" not in text, "a placeholder is left"
    for line in find_commands(text):
        if "diffusion_jax.main" in line:
            check_arguments(shlex.split(line)[3:])
    for link in re.findall(r"\]\(([^)#\s:]+)\)", text):
        assert (path.parent / link).exists(), f"{link} does not exist"

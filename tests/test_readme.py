"""The README: its commands are run, its links and figures exist."""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags

from diffusion_jax import main, methods, runs
from diffusion_jax.diffusion import process, samplers, schedules

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXT = README.read_text() if README.exists() else ""
# They install, fetch or need another machine; the files they name are still checked.
NOT_RUN = (
    "git clone",
    "cd ",
    "source .venv",
    "pip install",
    "apt",
    "sudo apt",
    "tfds build",
)
# A value that takes long, or is about other data, and what stands for it at :tiny.
SMALL = {
    "train.num_steps": "2",
    "sample.num_steps": "4",
    "sample.num_images": "9",
    "sample.num_frames": "2",
    "eval.num_terms": "3",
    "data.source": "digits",
    "data.image_size": "8",
    "data.num_channels": "1",
    "data.batch_size": "8",
}


def find_commands():
    """The commands in the fenced bash blocks, without their comments."""
    blocks = re.findall(r"(?ms)^```(?:bash|sh)\n(.*?)^```", TEXT)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines]
    return [line for line in dict.fromkeys(lines) if line]


def words_of(line):
    """The words of a command, without the variables set before it."""
    words = shlex.split(line)
    while re.match(r"\w+=", words[0]):
        del words[0]
    return words


COMMANDS = find_commands()
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
    """Holds a call's config, keys, flags and mode against those that there are."""
    config = config_of(next(word for word in words if "configs/" in word))
    for word in words:
        name, _, value = word.partition("=")
        if name.startswith("--config."):
            runs.check_keys(config, [name.removeprefix("--config.")])
        elif name.startswith("--"):
            assert name[2:] in flags.FLAGS, f"{name} is no flag"
            assert name != "--mode" or value in main.MODES


@pytest.mark.parametrize("line", COMMANDS)
def test_somebody_runs_it(line):
    """Every command is run here or by CI, or is one that cannot be."""
    words = words_of(line)
    here = words in MAIN + LAUNCH + EXAMPLES
    assert here or line.startswith(NOT_RUN), "who runs it? See tests/test_readme.py"


@pytest.mark.parametrize("words", LAUNCH, ids=joined(LAUNCH))
def test_launch_command(words):
    """The script is there, parses, and is called as the program understands it.

    CI runs local.sh and test.sh; test_launch.py says what the scripts hand on.
    """
    number = next(i for i, word in enumerate(words) if word.startswith("launch/"))
    subprocess.run(["bash", "-n", ROOT / words[number]], check=True)
    if words[number] == "launch/test.sh":
        assert "bash launch/test.sh" in (ROOT / ".ci/run").read_text()
    else:
        check_arguments(words[number + 1 :])


@pytest.mark.parametrize("words", EXAMPLES, ids=joined(EXAMPLES))
def test_example_command(words):
    """The example is there; tests/test_examples.py runs it."""
    assert (ROOT / words[1]).is_file()


def test_commands_of_main(tmp_path):
    """Each call is understood; those of digits do what they say, in order, at :tiny."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    trained = set()
    for words in MAIN:
        arguments = words[words.index("diffusion_jax.main") + 1 :]
        check_arguments(arguments)
        config = next(word for word in arguments if word.startswith("--config="))
        if not config.startswith("--config=configs/digits"):
            continue  # at :tiny the others are the same run: see test_configs.py
        small = [shrunk(word) for word in arguments]
        run = [word for word in small if word.startswith(("--config=", "--workdir="))]
        if tuple(run) not in trained and any("--mode=" in word for word in small):
            call_main(run, tmp_path)
        call_main(small, tmp_path)
        trained.add(tuple(run))


def shrunk(word):
    name, _, _ = word.partition("=")
    key = name.removeprefix("--config.")
    if name == "--config":
        return word.removesuffix(":tiny") + ":tiny"
    return f"{name}={SMALL[key]}" if key in SMALL else word


def call_main(arguments, folder):
    env = {
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "diffusion_jax.main", *arguments],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (arguments, done.stderr)


@pytest.mark.skipif(not TEXT, reason="there is no README.md")
def test_links_and_figures():
    """What the README links to and shows lies in the repository."""
    links = re.findall(r"\]\(([^)#\s]+)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    paths = [link for link in links if not re.match(r"\w+:", link)]
    assert any(path.endswith((".png", ".gif")) for path in paths), "it shows no picture"
    tops = "configs|diffusion_jax|examples|launch|tests"
    paths += re.findall(rf"`((?:{tops})/[\w./-]+)`", TEXT)
    assert "@@" not in TEXT, "something is still to be filled in"
    for path in paths:
        assert (ROOT / path).exists(), f"{path} does not exist"


@pytest.mark.skipif(not TEXT, reason="there is no README.md")
def test_first_screen():
    """The first screen shows a picture and the two commands, which CI runs."""
    screen = "\n".join(TEXT.splitlines()[:45])
    assert "bash launch/local.sh configs/digits.py" in screen
    assert "bash launch/test.sh" in screen
    assert re.search(r"\.(png|gif)\b", screen)


def test_functions_named():
    """Functions that the README names are in the mathematics."""
    modules = "process|losses|samplers|gaussians|schedules|times|guidance|walk|editing"
    for module, name in re.findall(rf"`({modules})\.(\w+)", TEXT):
        module = importlib.import_module(f"diffusion_jax.diffusion.{module}")
        assert hasattr(module, name), f"{module.__name__} has no {name}"


def test_rows_added(monkeypatch):
    """The README's new sampler, schedule and prediction are found by their names, and
    train and draw beside all others."""
    for module, table in (
        (samplers, "SAMPLERS"),
        (schedules, "SCHEDULES"),
        (process, "PREDICTIONS"),
    ):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    before = len(samplers.SAMPLERS)
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", TEXT):
        exec(block, {})
    assert len(samplers.SAMPLERS) == before + 1
    config = config_of("configs/digits.py:tiny")
    config.model.update(base_channels=8, channel_multipliers=(1,))
    config.sample.update(sampler="noiseless")
    config.diffusion.update(schedule="slow", prediction="minus_eps")
    method = methods.make(config)
    params, _, extra = jax.jit(method.init)(jax.random.key(0))
    index = np.arange(2, dtype=np.int32)
    batch = {"index": index, "image": np.zeros((2, 8, 8, 1), np.float32)}
    rest = {}, extra, batch, jax.random.key(1), 0
    loss, _ = jax.jit(lambda params: method.loss("net", params, *rest))(params)
    drawn = jax.jit(lambda p: method.sample(p, {}, index, jax.random.key(2)))(params)
    # A network that says nothing at its start: the loss is that of the noise.
    assert 0.7 < loss < 1.3
    assert np.isfinite(drawn["image"]).all()


def test_table_of_errors_is_the_one_that_was_measured():
    """The README's table of samplers is what the command wrote, letter for letter."""
    assert (ROOT / "docs/sampler_errors.md").read_text() in TEXT


DOCS = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_of_the_docs(path):
    """The commands that made the tables are understood as they stand there."""
    text = path.read_text()
    assert "@@" not in text, "something is still to be filled in"
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", text)
    for line in "\n".join(blocks).splitlines():
        if "diffusion_jax.main" in line:
            check_arguments(shlex.split(line)[3:])

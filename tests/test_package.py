"""The package as its users install, import and check it."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest
import yaml

import diffusion_jax as dj
from diffusion_jax import command_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Needed by whoever trains or samples, and slow to import.
HEAVY = set(
    "jax jaxlib flax optax orbax chex grain numpy ml_collections absl PIL sklearn "
    "matplotlib tensorboard tensorflow tensorflow_datasets torch".split()
)
# What a type checker reads of it is not what this tests, and takes most of the time.
SKIPPED = "jax flax optax orbax chex grain absl sklearn tensorboard matplotlib".split()


def test_one_version(capsys):
    """The command, the changelog's newest release and the citation have the package's
    version, a semantic one; setup.cfg reads it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", dj.__version__)
    with pytest.raises(SystemExit) as exit:
        command_line.parse_flags(["diffusion-jax", "--version"])
    assert exit.value.code is None
    assert capsys.readouterr().out == f"diffusion_jax {dj.__version__}\n"
    headings = re.findall(r"(?m)^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text())
    assert headings[:2] == ["Unreleased", dj.__version__]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dj.__version__
    settings = (ROOT / "setup.cfg").read_text()
    assert "version = attr: diffusion_jax.__version__" in settings


def test_changelog_sections():
    """Below a version there are only the sections of Keep a Changelog, once each."""
    sections = "Added Changed Deprecated Removed Fixed Security".split()
    text = (ROOT / "CHANGELOG.md").read_text()
    for version in re.split(r"(?m)^## \[", text)[1:]:
        found = re.findall(r"(?m)^### (.*)", version)
        assert found == [name for name in sections if name in found]


def test_a_folder_of_the_same_name_is_no_package(tmp_path):
    """Beside a clone, which has the package's name and no __init__.py, and a folder of
    runs, the import finds the installed package."""
    (tmp_path / "diffusion_jax/runs").mkdir(parents=True)
    script = "import diffusion_jax, diffusion_jax.runs as runs; runs.Run"
    environment = {x: y for x, y in os.environ.items() if x != "PYTHONPATH"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_import_costs_nothing():
    """Importing the package warns of nothing and imports no other package."""
    script = "import sys, diffusion_jax; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert "diffusion_jax" in modules and not modules & HEAVY


def test_public_names():
    """The names that are imported when they are used exist, and the user's script of
    the next test uses all of them and every public method."""
    script = ast.parse((ROOT / "tests/typed_script.py").read_text())
    used = {node.attr for node in ast.walk(script) if isinstance(node, ast.Attribute)}
    assert set(dj.__all__) <= used
    for name in set(dj.__all__) - {"__version__"}:
        assert getattr(dj, name).__name__ == name
    methods = {name for name in vars(dj.TrainedModel) if not name.startswith("_")}
    assert methods <= used


def test_types_of_a_users_script(tmp_path):
    """A type checker knows the type of what every public function returns."""
    pytest.importorskip("mypy")
    assert (ROOT / "diffusion_jax/py.typed").exists()
    skipped = ",".join(f"mypy-{name}.*" for name in SKIPPED)
    config = tmp_path / "mypy.ini"
    config.write_text(
        f"[mypy]\nstrict = True\nfollow_imports = silent\n[{skipped}]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", f"--config-file={config}"),
            *(f"--cache-dir={tmp_path}", "tests/typed_script.py"),
        ],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_wheel(tmp_path):
    """A wheel of the files that the Dockerfile copies installs the command, which runs
    a config of the user's where there is no repository."""
    source, place = tmp_path / "source", tmp_path / "venv"
    source.mkdir()
    for pattern in re.findall(r"(?m)^!(.*)", (ROOT / ".dockerignore").read_text()):
        paths = list(ROOT.glob(pattern))
        assert paths, f"{pattern} does not exist"
        for path in paths:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, source / path.name)

    def run(*command):
        environ = {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
        options = {"capture_output": True, "text": True, "env": environ}
        done = subprocess.run(command, cwd=tmp_path, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir=.", source)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(place, with_pip=True)
    run(place / "bin/python", "-m", "pip", "install", "--no-deps", wheel)
    # The dependencies are those of the environment that runs this test.
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    assert (packages / "diffusion_jax/py.typed").exists()
    found = run(place / "bin/diffusion-jax", "--version")
    assert found == f"diffusion_jax {dj.__version__}\n"
    page = (ROOT / "docs/python.md").read_text()
    config = re.findall(r"(?ms)^```python\n(.*?)^```", page)[1]
    (tmp_path / "mine.py").write_text(config)
    found = run(place / "bin/diffusion-jax", "--config=mine.py", "--mode=config")
    assert '"source": "folder:pictures"' in found

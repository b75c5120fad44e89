"""The launch scripts: what they refuse, install, and hand on to the program.

A stub stands for Python, pip, gcloud and srun, and writes down its arguments.
"""

import configparser
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci/run"])
SETUP = ["setup.cfg", "pyproject.toml"]
STUB = """#!/usr/bin/env bash
if [[ $1 == -V ]]; then echo Python 3.11; exit; fi
if [[ $2 == *version_info* ]]; then exit "${OLD:-0}"; fi
printf '%s\\n' "$(basename "$0")" "$@" - >>"$CALLS"
[[ -z ${FAIL:-} || $* != *"pip install"* ]]
"""


@pytest.fixture
def launch(tmp_path):
    """Returns run(script, *args, **env) -> (exit code, stderr, calls of the stub)."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    repo = tmp_path / "a repo"
    shutil.copytree(ROOT / "launch", repo / "launch")
    for path in [*ROOT.glob("constraints*.txt"), *map(ROOT.joinpath, SETUP)]:
        shutil.copy(path, repo)
    (repo / "configs").mkdir()
    (repo / "configs/digits.py").touch()
    bin_dir = repo / ".venv/bin"
    bin_dir.mkdir(parents=True)
    for name in ("python", "gcloud", "srun"):
        (bin_dir / name).write_text(STUB)
        (bin_dir / name).chmod(0o755)

    def run(script, *args, **env):
        calls = tmp_path / "calls"
        calls.write_text("")
        env = {"PATH": f"{bin_dir}:/usr/bin:/bin", "CALLS": str(calls), **env}
        done = subprocess.run(
            ["bash", repo / "launch" / script, *args],
            cwd=tmp_path if script != "slurm.sh" else repo,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        lists = [c.strip("\n").split("\n") for c in calls.read_text().split("\n-\n")]
        return done.returncode, done.stderr, [c for c in lists if c != [""]]

    run.repo = repo
    return run


def installs(calls):
    return [c[-1] for c in calls if c[1:4] == ["-m", "pip", "install"]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_is_valid_bash(script):
    """Every script parses."""
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", ["local.sh", "tpu_pod.sh", "slurm.sh"])
def test_usage_is_one_sentence(launch, script):
    """Without arguments a script says how to call it, and does nothing."""
    code, stderr, calls = launch(script)
    assert code == 2 and not calls
    assert stderr.count("\n") == 1 and f"launch/{script} CONFIG" in stderr


def test_refusals_come_before_the_install(launch):
    """A missing config and an unknown extra are named, with those there are."""
    code, stderr, calls = launch("local.sh", "configs/nosuch.py:tiny")
    assert code == 2 and not calls
    assert "configs/nosuch.py in" in stderr and "configs/digits.py" in stderr
    code, stderr, calls = launch("local.sh", "configs/digits.py", EXTRAS="cuda")
    assert code == 2 and not calls
    assert "'cuda'" in stderr and "cuda12 cuda13 tpu" in stderr


def test_old_python_is_refused(launch):
    """A Python that is too old is named, with what to do."""
    shutil.rmtree(launch.repo / ".venv/bin")
    code, stderr, _ = launch("local.sh", "configs/digits.py", PYTHON="/nosuch/python")
    assert code == 2 and "Python 3.11 or newer" in stderr and "/nosuch/" in stderr


def test_installs_once(launch):
    """A second call installs nothing; another extra or another setup.cfg does."""
    local = ("local.sh", "configs/digits.py")
    assert installs(launch(*local)[2]) == ["."]
    assert installs(launch(*local)[2]) == []
    assert installs(launch("test.sh")[2]) == [".[test]"]
    assert installs(launch("test.sh", EXTRAS="parity")[2]) == [".[parity,test]"]
    assert installs(launch("test.sh")[2]) == installs(launch(*local)[2]) == []
    with open(launch.repo / "setup.cfg", "a") as f:
        f.write("# changed\n")
    assert installs(launch(*local)[2]) == [".[parity,test]"]
    assert installs(launch("test.sh", EXTRAS="parity")[2]) == []


@pytest.mark.parametrize("old, name", [(0, "-python312"), (1, "")])
def test_versions_are_those_of_the_python(launch, old, name):
    """Python 3.12 and newer get the newest JAX, older ones the last one for them."""
    _, _, calls = launch("local.sh", "configs/digits.py", OLD=str(old))
    (pip,) = [c for c in calls if "install" in c]
    assert pip[pip.index("-c") + 1] == f"constraints{name}.txt"


def test_a_python_behind_a_shim_is_found(launch, tmp_path):
    """Where python3.13 on PATH runs nothing, pyenv's own is taken."""
    hidden = tmp_path / "py env/versions/3.13.0/bin/python3.13"
    hidden.parent.mkdir(parents=True)
    for path, text in [
        (hidden, STUB),
        (launch.repo / ".venv/bin/python3.13", "#!/bin/sh\nexit 127\n"),
    ]:
        path.write_text(text)
        path.chmod(0o755)
    find = "source launch/env.sh; first_python 12 python3.13 || echo none"
    for root, expected in [("py env", str(hidden)), ("nothing", "none")]:
        env = {
            "PATH": f"{launch.repo / '.venv/bin'}:/usr/bin:/bin",
            "PYENV_ROOT": str(tmp_path / root),
        }
        out = subprocess.run(
            ["bash", "-c", find],
            cwd=launch.repo,
            env=env,
            capture_output=True,
            text=True,
        )
        assert out.stdout.strip() == expected


def test_broken_install_is_repaired(launch):
    """After a failed install the next call installs, cut-off packages included."""
    site = launch.repo / ".venv/lib/python3.11/site-packages"
    for name in ("whole", "cut"):
        (site / f"{name}-1.dist-info").mkdir(parents=True)
    (site / "whole-1.dist-info/RECORD").touch()
    (launch.repo / ".venv/pyvenv.cfg").touch()
    code, _, calls = launch("test.sh", FAIL="1")
    assert code != 0 and "pytest" not in calls[-1]
    assert installs(launch("local.sh", "configs/digits.py")[2]) == ["."]
    assert [p.name for p in site.iterdir()] == ["whole-1.dist-info"]
    assert installs(launch("local.sh", "configs/digits.py")[2]) == []


def test_local_hands_arguments_on(launch):
    """WORKDIR is optional; spaces and quotes in arguments survive."""
    main = ["python", "-m", "diffusion_jax.main", "--config=configs/digits.py:tiny"]
    local = ("local.sh", "configs/digits.py:tiny")
    override = "--config.data.source=folder:/a b/it's"
    assert launch(*local)[2][-1] == main
    assert launch(*local, override)[2][-1] == [*main, override]
    expected = [*main, "--workdir=a dir", override]
    assert launch(*local, "a dir", override)[2][-1] == expected


def test_slurm_hands_arguments_on(launch):
    """One process a node, told that it is one of several."""
    call = launch("slurm.sh", "configs/digits.py", "a dir", "--config.seed=1")[2][-1]
    assert call[0] == "srun"
    assert call[-5:] == [
        "diffusion_jax.main",
        "--config=configs/digits.py",
        "--workdir=a dir",
        "--distributed",
        "--config.seed=1",
    ]


def test_tpu_pod_quotes_for_the_worker(launch):
    """A worker's shell gives back the arguments as they were."""
    tpu = {"TPU_NAME": "pod", "ZONE": "z", "REPO": "https://x/y z.git"}
    args = ("configs/digits.py", "/disk/a dir", "--config.x=it's; $HOME")
    call = launch("tpu_pod.sh", *args, **tpu)[2][-1]
    assert call[0] == "gcloud" and "--worker=all" in call
    remote = next(c for c in call if c.startswith("--command="))[10:]
    assert r"git clone https://x/y\ z.git" in remote
    words = remote[remote.index("launch/local.sh") :]
    script = f"f() {{ printf '%s\\n' \"$@\"; }}; f {words}"
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    expected = ["launch/local.sh", *args[:2], "--distributed", args[2]]
    assert out.stdout.splitlines() == expected
    code, stderr, calls = launch("tpu_pod.sh", "configs/digits.py", "runs/x", **tpu)
    assert code == 2 and not calls and "absolute" in stderr


def pinned(constraints):
    """The pins of a constraints file, by name."""
    text = (ROOT / constraints).read_text()
    return dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", text))


def version(text):
    return [int(part) for part in text.split(".") if part.isdigit()]


def test_metadata():
    """The extras exist, and everything that is asked for is pinned once."""
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    extras = cfg["options.extras_require"]
    assert {"test", "parity", "cuda12", "cuda13", "tpu", "prepare"} <= set(extras)
    pins = pinned("constraints.txt")
    wanted = cfg["options"]["install_requires"]
    wanted += extras["test"] + extras["parity"] + extras["prepare"]
    bounds = re.findall(r"(?m)^([\w-]+)>=(\S+)$", wanted)
    assert len(bounds) > 15 and all(pins[name] == low for name, low in bounds)
    newest = pinned("constraints-python312.txt")
    for name, _ in re.findall(
        r"(?m)^([\w-]+)>=(\S+)$", cfg["options"]["install_requires"] + extras["test"]
    ):
        assert version(newest[name]) >= version(pins[name])
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pins["ruff"]}
    assert "[tool" not in (ROOT / "pyproject.toml").read_text()

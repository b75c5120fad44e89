"""Runs of the real command, and what they leave on the disk."""

import functools
import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax import methods, run_config
from diffusion_jax.training import logs
from diffusion_jax.training.checkpoints import Checkpoints
from diffusion_jax.training.state import trace_initial

logging.getLogger("absl").setLevel(logging.ERROR)

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "configs/digits_vae.py:tiny"
NUM_STEPS, SAVE_EVERY, LOOK_EVERY = 400, 10, 40
VALUES = {
    "train.num_steps": NUM_STEPS,
    "train.log_every": 1,
    "train.save_every": SAVE_EVERY,
    "train.evaluate_every": LOOK_EVERY,
    "train.sample_every": LOOK_EVERY,
    "optim.decay_start": NUM_STEPS // 2,  # also of a run that is stopped before
    "optim.decay_end": NUM_STEPS,
    "eval.num_importance": 500,  # evaluating and drawing take some 0.1 s
    "sample.num_examples": 400,
}
# Until it is stopped.
LONG = {"train.num_steps": 1_000_000, "optim.decay_end": 1_000_000}
END_WITHIN = 30.0  # seconds in which a process ends after a fault


class Broken(Exception):
    """The law does not hold."""


class NotRun(Exception):
    """The fault cannot be brought about here."""


def check(condition: object, words: object) -> None:
    """Raises Broken unless the condition is true."""
    if not condition:
        raise Broken(str(words))


class Ended(NamedTuple):
    """How a process ended: exit code (-N: killed by signal N), output, seconds."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def summary(self) -> str:
        """The exit code and the last line of errors."""
        lines = self.stderr.strip().splitlines()
        return f"exit code {self.code}: {lines[-1] if lines else 'no message'}"


class Process:
    """A command that has been started; its output goes to files."""

    def __init__(self, folder: pathlib.Path, command: list[str], env: dict):
        folder.mkdir(parents=True)
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._since = time.monotonic()
        with self._out.open("w") as out, self._err.open("w") as err:
            self._popen = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=out, stderr=err
            )
        self.pid = self._popen.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    @property
    def is_working(self) -> bool:
        """Whether it handles SIGTERM: from the first line of work on."""
        if not self.is_running:
            return False
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        caught = next(x for x in status.splitlines() if x.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> 14 & 1)

    def wait_until(self, condition: Callable[[], object], seconds=120.0) -> bool:
        """Waits for a condition; returns False if the process ends before."""
        end = time.monotonic() + seconds
        while self.is_running:
            if condition():
                return True
            check(time.monotonic() < end, f"waited {seconds:.0f} s in vain")
            time.sleep(0.002)
        return False

    def send(self, number: int) -> None:
        self._popen.send_signal(number)

    def finish(self, seconds: float = 300.0) -> Ended:
        """Waits for the end; one that does not come within the time breaks the law."""
        since = time.monotonic()
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise Broken(f"still running after {seconds:.0f} s") from None
        seconds = time.monotonic() - since
        return Ended(code, self.stdout, self._err.read_text(errors="replace"), seconds)

    def stop(self) -> None:
        """Kills it if it is running."""
        if self.is_running:
            self._popen.kill()
            self._popen.wait()


class Place:
    """A folder for the workdirs of a session, and the commands that run in it.

    Args:
      folder: an empty folder.
      seed: of the random moments.
    """

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self._processes: list[Process] = []
        home = folder / "home"
        home.mkdir()
        self._env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def new(self, name: str) -> pathlib.Path:
        """Returns the path of a workdir that does not exist."""
        number = 1
        while os.path.lexists(path := self.folder / f"{name}-{number}"):
            number += 1
        return path

    def start(
        self,
        workdir: pathlib.Path,
        *flags: str,
        values: dict[str, object] = {},  # noqa: B006
        config: str = CONFIG,
        env: dict[str, str] = {},  # noqa: B006
        prefix: list[str] = [],  # noqa: B006
    ) -> Process:
        """Starts the command; values are those of the config, on top of VALUES.

        The prefix is a command that runs another one, such as nice."""
        values = (VALUES if config == CONFIG else {}) | values
        command = [
            *prefix,
            sys.executable,
            "-m",
            "diffusion_jax.main",
            f"--config={config}",
        ]
        command += [f"--workdir={workdir}", *flags]
        command += [f"--config.{name}={value}" for name, value in values.items()]
        logs = self.new("output")
        process = Process(logs, command, self._env | env)
        self._processes.append(process)
        return process

    def run(self, workdir: pathlib.Path, *flags: str, **options) -> Ended:
        """Runs the command to its end."""
        return self.start(workdir, *flags, **options).finish()

    def close(self) -> None:
        """Kills what is still running."""
        for process in self._processes:
            process.stop()

    @functools.cached_property
    def calm(self) -> pathlib.Path:
        """The workdir of a finished run that nothing disturbed."""
        workdir = self.new("calm")
        done = self.run(workdir)
        check(done.code == 0, f"the undisturbed run failed: {done.stderr[-500:]}")
        return workdir

    @functools.cached_property
    def _part(self) -> pathlib.Path:
        workdir = self.new("part")
        done = self.run(workdir, values={"train.num_steps": LOOK_EVERY})
        check(done.code == 0, f"the undisturbed run failed: {done.stderr[-500:]}")
        return workdir

    def partly_trained(self, name: str) -> pathlib.Path:
        """Returns a new workdir of a run of LOOK_EVERY steps."""
        workdir = self.new(name)
        shutil.copytree(self._part, workdir)
        return workdir


def without_privilege() -> list[str]:
    """Returns the prefix of a command for which permissions count, root's as well.

    Raises:
      NotRun: there is no such command here.
    """
    if os.geteuid() != 0:
        return []
    return prefix_of("setpriv", "--bounding-set=-dac_override")


def prefix_of(*command: str) -> list[str]:
    """Returns a command that runs another one.

    Raises:
      NotRun: it does not work here.
    """
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotRun(f"{command[0]} does not work here ({error})") from error
    return list(command)


def steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps whose checkpoints are complete, by their names."""
    return sorted(
        int(x.name) for x in workdir.glob("checkpoints/*") if x.name.isdigit()
    )


def records(workdir: pathlib.Path) -> list[dict]:
    """Returns the lines of metrics.jsonl, without speed and memory."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: x for k, x in y.items() if k not in logs.SPEED} for y in lines]


def last_logged(workdir: pathlib.Path) -> int:
    """Returns the last step in metrics.jsonl; 0 if there is none."""
    try:
        return records(workdir)[-1]["step"]
    except (OSError, ValueError, IndexError):  # the last line is being written
        return 0


def saved_state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every leaf of the last checkpoint, by its name."""
    config = run_config.stored_config(workdir)
    method = methods.make(config, run_config.stored_fields(config, workdir))
    checkpoints = Checkpoints(workdir / run_config.CHECKPOINTS, read_only=True)
    state = checkpoints.restore(trace_initial(method).out_info, checkpoints.steps()[-1])
    state = state.replace(key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def check_same_end(workdir: pathlib.Path, calm: pathlib.Path) -> None:
    """Raises Broken unless two runs ended alike, bit for bit, in state and log."""
    found, expected = saved_state(workdir), saved_state(calm)
    check(found.keys() == expected.keys(), "the states have other leaves")
    wrong = [x for x in expected if found[x].tobytes() != expected[x].tobytes()]
    check(not wrong, f"{len(wrong)} of {len(expected)} leaves differ, as {wrong[:1]}")
    logged, whole = records(workdir), records(calm)
    if logged != whole:
        pairs = [(x["step"], len(x)) for x in logged]
        twice = sorted({x for x in pairs if pairs.count(x) > 1})
        missing = sorted({(x["step"], len(x)) for x in whole} - set(pairs))
        raise Broken(
            f"metrics.jsonl differs: (step, values) twice {twice[:3]}, missing "
            f"{missing[:3]}, {len(logged)} lines instead of {len(whole)}"
        )


def check_sentence(ended: Ended, codes: tuple[int, ...], *words: str) -> None:
    """Raises Broken unless it ended with one of the codes and one sentence."""
    check(ended.code in codes, f"exit code {ended.code}: {ended.stderr[-300:]}")
    lines = [x for x in ended.stderr.splitlines() if "stopping after" not in x]
    both = ended.stdout + ended.stderr
    check("Traceback" not in both, f"a traceback: {both[-300:]}")
    check(len(lines) == 1, f"{len(lines)} lines on stderr: {ended.stderr[:300]}")
    for word in words:
        check(word in lines[0], f"{word!r} is not in: {lines[0]}")


def content(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Returns the bytes of every file below a folder; None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }

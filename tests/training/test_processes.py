"""Laws of processes: two of two devices each equal one of four devices."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest
from smoke import restore

from diffusion_jax.training.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    """A port of this machine that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def parameters(config, workdir, step):
    """Loss-bearing parts of a checkpoint: parameters, their average, the optimiser."""
    state = restore(config, workdir, step)
    assert state.step == step
    return state.params, state.ema, state.opt_state


def assert_close(found, expected):
    """Up to float32 rounding through Adam, whose steps are about 1e-3."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        found,
        expected,
    )


def test_two_processes_are_one(digits_config, commands, tmp_path):
    """Two processes of two devices reach the parameters of one process of four, to
    float tolerance; SIGTERM to one of them stops both after the same step with exit
    code 0; one process resumes from their checkpoint; only process 0 writes logs."""
    two, one = tmp_path / "two", tmp_path / "one"
    options = {"train__save_every": 1, "train__keep": 1000}
    options["optim__eps"] = 1e-4  # Adam divides by a root that can be all rounding
    together = {"coordinator": f"127.0.0.1:{free_port()}", "num_processes": 2}
    processes = [
        commands.start(
            two, 2, process_id=i, train__num_steps=100_000, **together, **options
        )
        for i in range(2)
    ]
    while not [*two.glob("checkpoints/2")]:
        assert processes[0].poll() is None, processes[0].communicate()[0]
        assert processes[1].poll() is None, processes[1].communicate()[0]
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    ends = [commands.finish(process) for process in processes]
    assert [code for code, _ in ends] == [0, 0], ends
    last = Checkpoints(two / "checkpoints").steps()[-1]
    for _, output in ends:
        assert f"Saved: {two}/checkpoints/{last}." in output
    assert "4 cpu devices" in ends[0][1] or "2 of 4 cpu devices" in ends[0][1]
    assert "step 1/" in ends[0][1] and "step 1/" not in ends[1][1]
    assert len([*two.glob("tensorboard/*")]) == 1

    options["train__num_steps"] = last + 2
    for workdir in (one, two):
        code, output = commands.finish(commands.start(workdir, 4, **options))
        assert code == 0, output
    assert f"RESUMING {two} at step {last}" in output
    for step in (1, 2, last, last + 2):
        found, expected = (parameters(digits_config, w, step) for w in (two, one))
        assert_close(found, expected)


class Pair:
    """Starts two processes of two devices each that run the same Python script.

    The script follows these lines and runs within parallel.together().
    """

    SCRIPT = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np
from diffusion_jax.training import parallel
parallel.DEAD = 4
cluster = [*sys.argv[1:2], *map(int, sys.argv[2:])] or [None] * 3
parallel.initialize(*cluster)
me = parallel.process_index()
with parallel.together():
"""

    def __init__(self, body, env=lambda i: {}, coordinator=True):
        script = self.SCRIPT + textwrap.indent(textwrap.dedent(body), "    ")
        address = [f"127.0.0.1:{free_port()}", "2"]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", script]
                + ([*address, str(i)] if coordinator else []),
                cwd=ROOT,
                env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"} | env(i),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(2)
        ]

    def ends(self):
        """Waits for both; returns (exit code, last line, everything) of each."""
        found = []
        for process in self.processes:
            output, _ = process.communicate(timeout=120)
            lines = output.strip().splitlines() or [""]
            found.append((process.returncode, lines[-1], output))
        return found


ENDED = "A process of this run has failed or was killed, so all of them end"


@pytest.mark.parametrize(
    "victim,statement,expected_code,expected_last",
    [
        (0, "raise FileNotFoundError('no data')", 1, "FileNotFoundError: no data"),
        (1, "print('no data'); sys.exit(2)", 2, "no data"),
    ],
)
def test_one_fails_all_end(victim, statement, expected_code, expected_last):
    """Point 22: if a process fails, it exits at once with its own words and exit code,
    and the other one within a few seconds with a sentence and without a stack dump,
    though it waits in C++."""
    start = time.monotonic()
    ends = Pair(f"""
        parallel.all_rows(np.ones(4))
        if me == {victim}:
            {statement}
        parallel.barrier("never")
    """).ends()
    assert time.monotonic() - start < 40
    assert ends[victim][:2] == (expected_code, expected_last)
    code, last, output = ends[1 - victim]
    assert code == 1 and last.startswith(ENDED)
    assert "stack trace" not in output and "Traceback" not in output


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_all_end(victim):
    """Point 22: if a process is killed in the middle of collectives, the other one ends
    soon, and its last words are a sentence. (JAX itself aborts the others, with a stack
    dump before that, if process 0 is killed, since the coordination service dies.)"""
    pair = Pair("""
        while True:
            parallel.all_rows(np.ones(4))
            print("together", flush=True)
    """)
    assert any("together" in line for line in pair.processes[victim].stdout)
    pair.processes[victim].kill()
    start = time.monotonic()
    code, last, output = pair.ends()[1 - victim]
    assert time.monotonic() - start < 20
    assert code != 0 and last.startswith(ENDED)
    if victim == 1:
        assert code == 1 and "stack trace" not in output


def test_one_finishes_before_the_other():
    """Point 22: a process that has finished waits for the other one, whose last seconds
    are not cut short."""
    ends = Pair("time.sleep(5 * me); print('finished')").ends()
    assert [end[:2] for end in ends] == [(0, "finished")] * 2


@pytest.mark.parametrize("kind", ["train_step", "map"])
def test_nobody_runs_before_all_have_compiled(kind):
    """Point 22: a process whose compilation cache is warm does not run a step or a task
    before the other has compiled it, so no collective waits for a compiler."""
    ends = Pair(f"""
        def report(x):
            os.write(1, f"runs {{time.time()}}\\n".encode())  # the devices' lines apart
        def step(state, batch):
            time.sleep(2 * me)
            print("compiled", time.time(), flush=True)
            jax.debug.callback(report, batch["x"])
            return state, {{"mean": jax.lax.pmean(batch["x"].sum(), parallel.AXIS)}}
        def task(variables, batch, key):
            time.sleep(2 * me)
            print("compiled", time.time(), flush=True)
            jax.debug.callback(report, batch["x"])
            return {{"y": 2 * batch["x"]}}
        batch = {{"x": np.ones((2, 3), np.float32)}}
        if {kind!r} == "train_step":
            run = parallel.train_step_on_devices(step)
            state = parallel.replicate({{"w": jnp.ones(3)}})
            for _ in range(3):
                state, metrics = run(state, parallel.shard(batch), False)
            assert float(metrics["mean"]) == 3
        else:
            run = parallel.map_on_devices(task)
            for _ in range(3):
                found = run({{}}, batch, jax.random.key(0))
                assert (found["y"] == 2).all()
        jax.effects_barrier()
    """).ends()
    assert [code for code, _, _ in ends] == [0, 0], ends
    times = {
        word: [
            [float(line.split()[1]) for line in output.splitlines() if word in line]
            for _, _, output in ends
        ]
        for word in ("compiled", "runs")
    }
    assert all(len(found) == 1 for found in times["compiled"]), "compiled once"
    assert all(len(found) == 6 for found in times["runs"])
    assert min(sum(times["runs"], [])) > max(sum(times["compiled"], []))


def test_slurm():
    """Point 21: one process on each of two nodes uses all devices of its node, found by
    SLURM's variables; a node on which JAX sees only CPUs stops both with a sentence."""
    port = str(free_port())

    def slurm(i):
        return {
            "SLURM_JOB_ID": "1234",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": "0",
            "JAX_COORDINATOR_PORT": port,
        }

    show = """
        print(parallel.describe(), "/", jax.config.values["jax_cuda_visible_devices"])
    """
    ends = Pair(show, slurm, coordinator=False).ends()
    assert [end[:2] for end in ends] == [(0, "2 of 4 cpu devices / all")] * 2, ends

    ends = Pair(show, lambda i: slurm(i) | {"SLURM_GPUS_ON_NODE": "2"}, False).ends()
    for code, last, output in ends:
        assert code == 1 and "devices /" not in output
        assert last.startswith(ENDED) or "JAX sees 2 cpu devices in this one" in last

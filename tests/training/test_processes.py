"""Laws of processes: they connect, fail and end together, with a sentence."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
import time
import types

import jax
import pytest

from diffusion_jax.training import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    """A port of this machine that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Pair:
    """Starts two processes of two devices each that run the same Python script.

    The script follows these lines and runs within processes.together().
    """

    SCRIPT = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np
from diffusion_jax.training import parallel, processes
processes.DEAD = 4
cluster = [*sys.argv[1:2], *map(int, sys.argv[2:])] or [None] * 3
processes.initialize(*cluster)
me = parallel.process_index()
with processes.together():
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
            lines = [x for x in output.splitlines() if x and "[Gloo]" not in x] or [""]
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
    ends = Pair("time.sleep(3 * me); print('finished')").ends()
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


def test_batches_of_several_lengths():
    """Two processes run a step on batches of two lengths, one after the other."""
    ends = Pair("""
        def step(state, batch):
            time.sleep(2 * me)
            return state + jax.lax.pmean(batch["x"].sum(), parallel.AXIS), {}
        run = parallel.train_step_on_devices(step)
        state = parallel.replicate(jnp.zeros(()))
        for length in (3, 5, 3, 5):
            state, _ = run(state, parallel.shard({"x": np.ones((2, length))}), 0)
        print("sum", float(state))
    """).ends()
    assert [end[:2] for end in ends] == [(0, "sum 16.0")] * 2, ends


def test_batches_are_copied_and_traced(tmp_path):
    """Batches of bytes that are copied ahead reach the devices of both processes, as on
    accelerators; a trace of two steps is process 0's, and stops no collective."""
    ends = Pair(f"""
        import pathlib
        from diffusion_jax.training import batches, profiling
        jax.default_backend = lambda: "gpu"
        def step(state, batch):
            x = batches.normalise(batch)["x"].mean()
            return state + jax.lax.pmean(x, parallel.AXIS), {{}}
        run = parallel.train_step_on_devices(step)
        state = parallel.replicate(jnp.zeros(3))
        workdir = pathlib.Path({str(tmp_path)!r}) / str(me)
        images = [np.full((4, 3), 10 * me + k, np.uint8) for k in range(4)]
        stream = ((k, {{"x": x}}) for k, x in enumerate(images))
        with profiling.Profile(range(1, 3), workdir) as profile:
            for k, batch in parallel.to_devices(stream):
                assert isinstance(batch["x"], jax.Array)
                if profile.starts(k):
                    profile.start()
                state, _ = run(state, batch, 0)
                if profile.ends(k + 1):
                    jax.block_until_ready(state)
                    profile.end()
        expected = sum((5 + k) / 127.5 - 1 for k in range(4))
        np.testing.assert_allclose(state, expected, rtol=1e-5)
    """).ends()
    assert [code for code, _, _ in ends] == [0, 0], ends
    traces = tmp_path.rglob("perfetto_trace.json.gz")
    assert [path.relative_to(tmp_path).parts[:2] for path in traces] == [
        ("0", "profile")
    ]


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


def test_coordinator_needs_the_other_two():
    """A coordinator without the other two flags is refused before it is waited for."""
    with pytest.raises(ValueError, match="--num_processes and --process_id"):
        processes.initialize("127.0.0.1:1", None, 0)


@pytest.mark.parametrize(
    "cluster,expected",
    [
        (("127.0.0.1:1", 2, 2), "--process_id=2 is not in 0..1 "),
        (("127.0.0.1:1", 2, -1), "--process_id=-1 is not in 0..1 "),
        (("127.0.0.1", 2, 0), "--coordinator=127.0.0.1 has no port"),
    ],
)
def test_impossible_processes(cluster, expected):
    """Point 22: processes that the run cannot have are refused, not waited for."""
    with pytest.raises(ValueError, match=expected):
        processes.initialize(*cluster)


ONE_A_NODE = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
SHARED_NODE = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}
CLUSTER = ["SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_GPUS_ON_NODE"]
CLUSTER += ["OMPI_COMM_WORLD_LOCAL_SIZE"]


@pytest.fixture
def cluster(monkeypatch):
    """Returns set(**variables), which sets those of a cluster and unsets the others."""

    def set_variables(**variables):
        for name in CLUSTER:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_no_cluster():
    """Point 22: --distributed without a cluster is refused, with what to give."""
    start = "processes.initialize(None, None, None)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from diffusion_jax.training import processes; {start}",
        ],
        cwd=ROOT,
        env={name: os.environ[name] for name in os.environ if name not in CLUSTER},
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ValueError: This is no cluster")
    assert "give --coordinator" in last


@pytest.mark.parametrize(
    "variables,expected",
    [
        ({}, []),
        (ONE_A_NODE, []),
        (SHARED_NODE, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", **SHARED_NODE}, []),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2", **ONE_A_NODE}, None),
    ],
)
def test_all_devices_of_a_host(monkeypatch, cluster, variables, expected):
    """Point 21: a process that has a host for itself is not restricted to one of its
    devices, with a coordinator of its own either; one that shares it is by JAX."""
    cluster(**variables)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(k))
    processes.initialize(None, None, None)
    processes.initialize("127.0.0.1:1", 2, 0)
    assert [call["local_device_ids"] for call in calls] == [expected] * 2


@pytest.mark.parametrize(
    "variables,platform,count,fits",
    [
        (ONE_A_NODE, "gpu", 8, True),
        (ONE_A_NODE, "gpu", 1, False),
        (ONE_A_NODE, "cpu", 8, False),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "1"}, "gpu", 1, True),
        (SHARED_NODE, "gpu", 1, False),
    ],
)
def test_devices_that_slurm_gave(
    monkeypatch, cluster, variables, platform, count, fits
):
    """Point 21: 8 GPUs of a node are all used by its processes, or the run stops with a
    sentence that has both numbers; without GPUs, or SLURM, nothing is checked."""
    devices = [types.SimpleNamespace(platform=platform)] * count
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    cluster(**variables)
    with processes.together():
        pass
    cluster(SLURM_GPUS_ON_NODE="8", **variables)
    expected = f"gave .* 8 GPUs for .* JAX sees {count} {platform} device"
    refusal = pytest.raises(ValueError, match=expected)
    with contextlib.nullcontext() if fits else refusal, processes.together():
        pass


def test_limits_of_processes():
    """Point 22: a dead process is noticed within 30 s, before JAX aborts the others,
    which is within 40 s, so that the last words are ours."""
    assert processes.ROUND + processes.DEAD <= 30 < processes.HEARTBEAT <= 40
    assert processes.SHUTDOWN <= 30 and processes.START <= 120


@pytest.mark.parametrize("names,expected", [(None, False), ("a", False), ("a,b", True)])
def test_on_pod(monkeypatch, names, expected):
    """A pod is what lists several workers."""
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    if names:
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", names)
    assert processes.on_pod() is expected

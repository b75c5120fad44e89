"""Two processes of two devices each equal one process of four devices."""

import pathlib
import signal
import socket
import time

import jax
import numpy as np
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
        assert f"Last checkpoint: {two}/checkpoints/{last}." in output
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

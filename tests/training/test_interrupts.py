"""Laws of signals: the first asks, the second waits, the third kills."""

import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import inference
from diffusion_jax.data.base import Field, Range
from diffusion_jax.methods import Task
from diffusion_jax.training import interrupts
from diffusion_jax.training.state import Variables

SIGNALS = pytest.mark.parametrize("number", interrupts.SIGNALS)


@SIGNALS
def test_a_signal_is_a_request(number, capfd):
    """Point 8: the first two signals request a stop and print a line each; afterwards
    the previous handlers are restored and the request is cleared."""
    before = signal.getsignal(number)
    with interrupts.handled():
        interrupts.check()
        for count in (1, 2):
            signal.raise_signal(number)
            assert interrupts.requested()
            time.sleep(0.2)  # a thread says it
            said = capfd.readouterr().err
            assert "third signal kills" in said and said.count("\n") == 1, count
        with pytest.raises(interrupts.Stopped, match=signal.Signals(number).name):
            interrupts.check()
    assert signal.getsignal(number) is before
    with interrupts.handled():
        assert not interrupts.requested()


@SIGNALS
def test_the_third_signal_kills(number):
    """Point 8: three signals end the process, whatever it does."""
    script = (
        "import signal, time\n"
        "from diffusion_jax.training import interrupts\n"
        "with interrupts.handled():\n"
        "    for _ in range(3):\n"
        f"        signal.raise_signal({int(number)})\n"
        "    time.sleep(60)\n"
        "    print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 128 + number and "alive" not in done.stdout


def test_a_disabled_signal_stays_disabled():
    """Point 8: what nohup disables is not handled."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.handled():
            signal.raise_signal(signal.SIGHUP)
            assert not interrupts.requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread():
    """Where Python handles no signals, the context does nothing."""
    seen = []

    def work():
        with interrupts.handled():
            seen.append(interrupts.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_stream_stops_at_the_next_batch():
    """Point 8: whatever runs over batches stops after the one that is computed."""
    run = lambda variables, batch, key: {"x": 2.0 * batch["index"]}  # noqa: E731
    task = Task(run, (), {"x": Field((), np.float32, "scalar")})
    stream = inference.make_stream(task, batch_size=8, seed=0)
    with interrupts.handled():
        rows = stream(Variables({"net": jnp.zeros(1)}, {}), Range(80), 80)
        np.testing.assert_array_equal(next(rows)["x"], 2.0 * np.arange(8))
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(interrupts.Stopped):
            next(rows)

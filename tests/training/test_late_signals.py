"""Laws of signals in a busy process, in one that is ending, and nested."""

import signal
import subprocess
import sys
import time

import pytest

from diffusion_jax.training import interrupts

BUSY = """
import hashlib
from diffusion_jax.training import interrupts
with interrupts.handled():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, in C, as compiling is
"""
LATE = """
import os, signal
from diffusion_jax.training import interrupts
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)
        print("late")
interrupts.handle_until_exit()
late = Late()
"""


def test_the_third_signal_ends_a_busy_process():
    """Point 8: each signal is answered and the third ends the process at once, while
    the main thread is in a call of minutes that runs no handler of Python."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert process.communicate()[1].splitlines() == [
        "SIGTERM: stopping after this batch (the third signal kills).",
        "SIGTERM again: still saving (the third signal kills).",
    ]


def test_a_signal_while_python_shuts_down():
    """Point 8: a late second signal changes no exit code: all is saved by then."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "late\n"), done.stderr


def test_nested():
    """Point 8: a signal before the training begins is not forgotten in it; afterwards
    the handlers are those of before."""
    handlers = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.handled():
        signal.raise_signal(signal.SIGHUP)
        with interrupts.handled():
            with pytest.raises(interrupts.Stopped, match="SIGHUP"):
                interrupts.check()
        assert interrupts.requested()
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == handlers
    with interrupts.handled():
        interrupts.check()

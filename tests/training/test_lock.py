"""Laws of the lock: one holder, named; a dead one is no obstacle."""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from diffusion_jax.training import lock

SCRIPT = """
import pathlib, sys, time
from diffusion_jax.training.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def short_lease(monkeypatch):
    """Signs of life after 0.02 s, death after 0.5 s without one."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    monkeypatch.setattr(lock, "LEASE", 0.5)
    monkeypatch.setattr(lock, "SETTLE", 0.2)


def content(folder):
    return json.loads((folder / lock.NAME).read_text())


def write(folder, **changes):
    """Leaves the lock of another machine's process in the folder."""
    with lock.locked(folder):
        holder = content(folder)
    folder.mkdir(exist_ok=True)
    holder |= {"host": "elsewhere", "pid": 7, "job": "42"} | changes
    (folder / lock.NAME).write_text(json.dumps(holder))
    return holder


def test_one_holder(tmp_path):
    """Point 5: a second one is refused at once, in a sentence that names the first;
    after the end of the first the lock is free, and nothing is left behind."""
    folder = tmp_path / "run"
    with lock.locked(folder):
        with pytest.raises(
            lock.LockedError, match=f"process {os.getpid()} on "
        ) as error:
            with lock.locked(folder):
                pass
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
        assert content(folder)["pid"] == os.getpid()  # a refusal changes nothing
    assert not folder.exists()
    with lock.locked(folder):
        (folder / "config.json").touch()
    assert [x.name for x in folder.iterdir()] == ["config.json"]


def test_a_dead_process_releases_it(tmp_path):
    """Point 5: a process that is killed releases the lock at once."""
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(lock.LockedError, match=f"process {process.pid} on "):
        with lock.locked(tmp_path):
            pass
    process.kill()
    assert process.wait() == -signal.SIGKILL
    start = time.monotonic()
    with lock.locked(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()
    assert time.monotonic() - start < lock.LEASE / 2


def test_a_holder_on_another_machine(tmp_path, short_lease):
    """Point 5: on a shared disk a holder elsewhere counts as alive as long as it gives
    signs of life, and its lock is taken over when they end."""
    holder, end = write(tmp_path), threading.Event()

    def live():
        number = 0
        while not end.wait(0.05):
            number += 1
            text = json.dumps(holder | {"beat": number})
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").rename(tmp_path / lock.NAME)

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(lock.LockedError, match="process 7 on elsewhere, job 42, since"):
        with lock.locked(tmp_path):
            pass
    end.set()
    thread.join()
    with lock.locked(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


def test_a_disk_without_locks(tmp_path, short_lease, monkeypatch):
    """Point 5: without flock the signs of life alone decide, on one machine too."""

    def flock(file, operation):
        raise OSError("not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.locked(tmp_path):
        with pytest.raises(lock.LockedError, match=f"process {os.getpid()} on "):
            with lock.locked(tmp_path):
                pass
    write(tmp_path)
    with lock.locked(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


def test_two_starts_at_once_without_locks(tmp_path, short_lease, monkeypatch):
    """Point 5: without flock, of two processes that start at the same moment one gets
    the lock, and the other one leaves it alone."""

    def flock(file, operation):
        raise OSError("not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    both, found = threading.Barrier(2), []

    def start():
        both.wait()
        try:
            with lock.locked(tmp_path):
                time.sleep(0.6)
                found.append(True)
        except lock.LockedError:
            found.append(None)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == [None, True]
    assert not (tmp_path / lock.NAME).exists()


def test_an_error_of_the_disk_does_not_hide_another_one(tmp_path, monkeypatch):
    """Point 9: if the lock cannot be removed, the error that ended the training is the
    one that is reported."""

    def unlink(self, missing_ok=False):
        raise OSError("read-only file system")

    with pytest.raises(ValueError, match="the reason"), lock.locked(tmp_path):
        monkeypatch.setattr(pathlib.Path, "unlink", unlink)
        raise ValueError("the reason")


def test_a_damaged_lock_file(tmp_path):
    """Point 5: what a killed process or a full disk has left in the file is ignored."""
    for text in ("", "{", "[1]"):
        (tmp_path / lock.NAME).write_text(text)
        with lock.locked(tmp_path):
            assert content(tmp_path)["pid"] == os.getpid()


def test_a_folder_that_cannot_be_written(tmp_path):
    """Point 9: it is found out at the start, in a sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run cannot be written .*workdir") as error:
        with lock.locked(tmp_path / "file" / "run"):
            pass
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """Point 9: a disk that is full at the start is refused, and neither the lock
    nor the new folder is left behind."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock, "_write", full)
    folder = tmp_path / "run"
    with pytest.raises(OSError, match="run cannot be written .No space left"):
        with lock.locked(folder):
            pass
    assert not folder.exists()

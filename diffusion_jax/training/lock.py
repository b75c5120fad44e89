"""One training per folder: a lock that a dead process releases."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from diffusion_jax import strict_json

NAME = "lock"
HEARTBEAT = 5.0  # seconds between two signs of life of the holder
LEASE = 30.0  # seconds without a sign of life after which a holder counts as dead


class LockedError(RuntimeError):
    """Another process is training in the folder."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder within a `with` statement; creates the folder.

    On one machine the operating system guarantees that at most one process holds the
    lock, and releases it when the process ends in whatever way. On a disk that several
    machines share this also holds if the disk supports flock. Where it does not, the
    holder writes a sign of life every 5 seconds, and a process on another machine takes
    the lock over after 30 seconds without one; this fails only if the holder's machine
    hangs for longer than that and then goes on, or if two machines take over a dead
    process's lock within the same second.

    Raises:
      LockedError: another process holds the lock; the message names it.
      OSError: the folder cannot be written.
    """
    new = not folder.exists()
    path = folder / NAME
    stop = threading.Event()
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "token": uuid.uuid4().hex,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open(path)
        try:
            _write(file, holder, 0)
        except OSError:
            _remove(path, file, new)
            raise
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}): correct its permissions, "
            "free the disk, or use another --workdir."
        ) from error
    beats = threading.Thread(target=_beat, args=(file, holder, stop), daemon=True)
    beats.start()
    try:
        yield
    finally:
        stop.set()
        beats.join()
        _remove(path, file, new)


def _remove(path: pathlib.Path, file: int, with_folder: bool) -> None:
    """Removes and releases a lock that this process holds."""
    path.unlink(missing_ok=True)
    os.close(file)
    if with_folder:  # a refusal leaves nothing behind
        with contextlib.suppress(OSError):  # but a run does
            path.parent.rmdir()


def _open(path: pathlib.Path) -> int:
    """Opens and locks the file; returns its descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        has_locks = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(path)
            os.close(file)
            raise _refusal(path, holder) from None
        except OSError:
            has_locks = False
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                break
        os.close(file)  # its last holder has just removed it
    holder = _read(path)
    is_dead = has_locks and holder.get("host") == socket.gethostname()
    try:
        if holder and not is_dead:
            _await_silence(path, holder)
    except LockedError:
        os.close(file)
        raise
    return file


def _await_silence(path: pathlib.Path, first: dict[str, Any]) -> None:
    """Waits until a holder that may be alive on another machine counts as dead."""
    end = time.monotonic() + LEASE
    while time.monotonic() < end:
        time.sleep(LEASE / 30)
        if _read(path) != first:
            raise _refusal(path, first)


def _beat(file: int, holder: dict[str, Any], stop: threading.Event) -> None:
    """Writes signs of life until `stop` is set."""
    number = 0
    while not stop.wait(HEARTBEAT):
        number += 1
        with contextlib.suppress(OSError):  # a full disk must not end the training
            _write(file, holder, number)


def _write(file: int, holder: dict[str, Any], beat: int) -> None:
    text = strict_json.dumps(holder | {"beat": beat}) + "\n"
    os.ftruncate(file, os.pwrite(file, text.encode(), 0))


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns who holds the lock; {} if it is unknown."""
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _refusal(path: pathlib.Path, holder: dict[str, Any]) -> LockedError:
    job = f", job {holder['job']}" if holder.get("job") else ""
    known = (
        f"process {holder.get('pid')} on {holder.get('host')}{job}, since "
        f"{holder.get('since')}"
        if holder
        else "a process that is just starting"
    )
    return LockedError(
        f"Another training runs in {path.parent}: {known}. Wait for its end or stop "
        "it, or use another --workdir."
    )

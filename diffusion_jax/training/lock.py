"""A lock file that allows one training per folder; a dead process does not hold it."""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from diffusion_jax import strict_json

LOGGER = logging.getLogger(__name__)

NAME = "lock"
HEARTBEAT = 5.0  # seconds between two heartbeats of the holder
LEASE = 30.0  # seconds without a heartbeat after which a holder counts as dead
SETTLE = 2.0  # seconds in which processes without flock see each other's start


class LockedError(RuntimeError):
    """Another process is training in the folder."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder within a `with` statement; creates the folder.

    On one machine the operating system guarantees that at most one process holds the
    lock, and releases it when the process ends, however it ends. This also holds across
    machines if the shared disk supports flock. Otherwise the holder writes a heartbeat
    every 5 seconds, and a process on another machine takes over a lock without
    heartbeats for 30 seconds. This fails only if the holder's machine hangs for longer
    than that and then continues.

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
        file, has_flock = _open(path)
        try:
            _write(file, holder, 0)
        except OSError:
            _remove(path, file, holder, new)
            raise
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}): correct its permissions, "
            "free the disk, or use another --workdir."
        ) from error
    beats = threading.Thread(target=_beat, args=(path, file, holder, stop), daemon=True)
    try:
        if not has_flock:
            time.sleep(SETTLE)  # of several processes that start at once, the last wins
            if not _is_ours(path, holder):
                raise _refusal(path, _read(path))
        beats.start()
        yield
    finally:
        stop.set()
        if beats.is_alive():
            beats.join()
        _remove(path, file, holder, new)


def _remove(
    path: pathlib.Path, file: int, holder: dict[str, Any], with_folder: bool
) -> None:
    """Releases a lock; errors of the disk must not hide why the program ends."""
    with contextlib.suppress(OSError):
        if _is_ours(path, holder) or not _read(path):
            path.unlink(missing_ok=True)
    os.close(file)
    if with_folder:  # a refusal leaves nothing behind
        with contextlib.suppress(OSError):  # but a run does
            path.parent.rmdir()


def _open(path: pathlib.Path) -> tuple[int, bool]:
    """Opens and locks the file; returns its descriptor, and whether flock works."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        has_flock = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(path)
            os.close(file)
            raise _refusal(path, holder) from None
        except OSError:
            has_flock = False
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                break
        os.close(file)  # its last holder has just removed it
    holder = _read(path)
    is_dead = has_flock and holder.get("host") == socket.gethostname()
    try:
        if holder and not is_dead:
            _await_silence(path, holder)
    except LockedError:
        os.close(file)
        raise
    return file, has_flock


def _await_silence(path: pathlib.Path, first: dict[str, Any]) -> None:
    """Waits until a holder that may be alive on another machine counts as dead."""
    LOGGER.warning(
        "%s was locked by %s: waiting %.0f s for a heartbeat.",
        path.parent,
        _name(first),
        LEASE,
    )
    end = time.monotonic() + LEASE
    while time.monotonic() < end:
        time.sleep(LEASE / 30)
        if _read(path) != first:
            raise _refusal(path, first)


def _beat(
    path: pathlib.Path, file: int, holder: dict[str, Any], stop: threading.Event
) -> None:
    """Writes heartbeats until `stop` is set or another process has taken over."""
    number = 0
    while not stop.wait(HEARTBEAT) and _is_ours(path, holder):
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


def _is_ours(path: pathlib.Path, holder: dict[str, Any]) -> bool:
    return _read(path).get("token") == holder["token"]


def _name(holder: dict[str, Any]) -> str:
    """Describes a holder, for messages."""
    if not holder:
        return "a process that is just starting"
    job = f", job {holder['job']}" if holder.get("job") else ""
    return (
        f"process {holder.get('pid')} on {holder.get('host')}{job}, since "
        f"{holder.get('since')}"
    )


def _refusal(path: pathlib.Path, holder: dict[str, Any]) -> LockedError:
    return LockedError(
        f"Another training runs in {path.parent}: {_name(holder)}. Wait for its end or "
        "stop it, or use another --workdir."
    )

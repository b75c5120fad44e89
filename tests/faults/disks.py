"""Disks that cannot be written, are full, or go away."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Iterator

from harness import (
    END_WITHIN,
    LONG,
    LOOK_EVERY,
    Ended,
    NotRun,
    Place,
    Process,
    check,
    check_same_end,
    check_sentence,
    content,
    last_logged,
    prefix_of,
    steps,
    without_privilege,
)


def check_ends_with_last_good(
    process: Process, workdir: pathlib.Path, *words: str
) -> Ended:
    """Checks that it ends in time with a sentence that names the last checkpoint."""
    ended = process.finish(END_WITHIN)
    good = workdir.absolute() / "checkpoints" / str(max(steps(workdir), default=0))
    check_sentence(ended, (1,), str(good), *words)
    return ended


def check_goes_on(place: Place, workdir: pathlib.Path, **options) -> None:
    """Checks that the same command goes on and ends as an undisturbed run."""
    done = place.run(workdir, **options)
    check(done.code == 0, f"afterwards: {done.summary}")
    check("RESUMING" in done.stdout, "afterwards: it does not resume")
    check_same_end(workdir, place.calm)


def read_only_checkpoints(place: Place) -> str:
    """read-only checkpoints/ at the start: a sentence, code 1; mended, it goes on"""
    workdir = place.partly_trained("read-only-checkpoints")
    user = without_privilege()
    (workdir / "checkpoints").chmod(0o555)
    before = content(workdir)
    ended = place.start(workdir, prefix=user).finish(END_WITHIN)
    check_sentence(ended, (1,), str(workdir / f"checkpoints/{LOOK_EVERY}."))
    check(content(workdir) == before, "something was written")
    (workdir / "checkpoints").chmod(0o755)
    check_goes_on(place, workdir, prefix=user)
    return f"{ended.summary} ({ended.seconds:.1f} s), resumed"


def checkpoints_become_read_only(place: Place) -> str:
    """checkpoints/ becomes read-only while training: the last good one is named"""
    workdir = place.partly_trained("becomes-read-only")
    user = without_privilege()
    process = place.start(workdir, values=LONG, prefix=user)
    process.wait_until(lambda: last_logged(workdir) > 2 * LOOK_EVERY)
    (workdir / "checkpoints").chmod(0o555)
    ended = check_ends_with_last_good(process, workdir)
    (workdir / "checkpoints").chmod(0o755)
    done = place.run(
        workdir, values={"train.num_steps": max(steps(workdir))}, prefix=user
    )
    check(done.code == 0, f"afterwards: {done.summary}")
    return f"{ended.summary} ({ended.seconds:.1f} s), resumed"


def read_only_workdir(place: Place) -> str:
    """read-only workdir: train refuses at the start; --output samples, evaluates"""
    workdir, output = place.partly_trained("read-only"), place.new("output")
    output.mkdir()
    user = without_privilege()
    for path in (workdir, *workdir.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = content(workdir)
    ended = place.start(workdir, prefix=user).finish(END_WITHIN)
    check_sentence(ended, (1, 2), str(workdir))
    for mode, file in (
        ("sample", "reconstruct.npz"),
        ("evaluate", "evaluations.jsonl"),
    ):
        refused = place.start(workdir, f"--mode={mode}", prefix=user).finish(END_WITHIN)
        check_sentence(refused, (1, 2), str(workdir))
        flags = f"--mode={mode}", f"--output={output}"
        done = place.run(workdir, *flags, prefix=user)
        check(done.code == 0, f"{mode} --output: {done.summary}")
        written = {x.name for x in output.iterdir()}
        check(written, f"{mode} --output has written nothing, not {file}")
    check(content(workdir) == before, "something was written into the workdir")
    check("evaluations.jsonl" in written, f"written: {written}")
    return f"{ended.summary}; {', '.join(sorted(written))} are in --output"


def workdir_that_cannot_be_made(place: Place) -> str:
    """a workdir below a read-only folder, or that is a file: a sentence at the start"""
    folder = place.new("closed")
    folder.mkdir()
    user = without_privilege()
    folder.chmod(0o555)
    below = place.start(folder / "run", prefix=user).finish(END_WITHIN)
    check_sentence(below, (1, 2), str(folder / "run"))
    file = place.new("file")
    file.write_text("mine")
    seen = [below.summary]
    for workdir in (file, file / "run"):
        for mode in ("train", "sample", "evaluate"):
            ended = place.start(workdir, f"--mode={mode}").finish(END_WITHIN)
            check_sentence(ended, (1, 2), str(workdir))
        seen.append(ended.summary)
    check(file.read_text() == "mine", "the file was changed")
    return "; ".join(seen)


def checkpoints_disappear(place: Place) -> str:
    """checkpoints/ disappears while training: it goes on in a new one, or says why not

    In both cases the process ends with complete checkpoints, from which it can go on.
    """
    workdir = place.new("disappears")
    process = place.start(workdir, values=LONG)
    process.wait_until(lambda: last_logged(workdir) > LOOK_EVERY)
    (workdir / "checkpoints").rename(workdir / "elsewhere")
    moved_at = last_logged(workdir)
    goes_on = process.wait_until(lambda: max(steps(workdir), default=0) > moved_at)
    if goes_on:
        process.send(signal.SIGTERM)
        ended = process.finish(END_WITHIN)
        check(ended.code == 0, ended.summary)
        check(max(steps(workdir)) == last_logged(workdir), "the last step is not saved")
    else:
        ended = process.finish(END_WITHIN)
        check_sentence(ended, (1,), str(workdir / "checkpoints"))
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
        (workdir / "elsewhere").rename(workdir / "checkpoints")
    done = place.run(
        workdir, values=LONG | {"train.num_steps": max(steps(workdir)) + 10}
    )
    check(done.code == 0, f"afterwards: {done.summary}")
    check("RESUMING" in done.stdout, "afterwards: it does not resume")
    return "goes on in a new one" if goes_on else f"{ended.summary}, resumed"


@contextlib.contextmanager
def small_disk(place: Place, size: str) -> Iterator[pathlib.Path]:
    """Mounts a small disk for a `with` statement.

    Raises:
      NotRun: this user or machine may not mount.
    """
    disk = place.new("disk")
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotRun(f"mounting a small disk is not permitted ({error})") from error
    try:
        yield disk
    finally:
        place.close()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: pathlib.Path) -> pathlib.Path:
    """Writes a file until the disk is full."""
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


@contextlib.contextmanager
def filled_while_training(place: Place):
    """Yields a training, its folder and what fills its disk."""
    with small_disk(place, "8m") as disk:
        workdir = disk / "run"
        process = place.start(workdir)
        process.wait_until(lambda: last_logged(workdir) > LOOK_EVERY)
        yield process, workdir, fill(disk)


def full_disk(place: Place) -> str:
    """the disk gets full while training: a sentence, exit code 1; freed, it goes on"""
    with filled_while_training(place) as (process, workdir, filler):
        ended = check_ends_with_last_good(process, workdir)
        again = place.start(workdir).finish(END_WITHIN)
        check_sentence(again, (1, 2))
        filler.unlink()
        check_goes_on(place, workdir)
    return f"{ended.summary} ({ended.seconds:.1f} s), resumed"


def full_disk_at_the_start(place: Place) -> str:
    """a disk that is full at the start: a sentence at once, nothing is left behind"""
    with small_disk(place, "1m") as disk:
        fill(disk)
        ended = place.start(disk / "run").finish(END_WITHIN)
        check_sentence(ended, (1, 2), str(disk / "run"))
        left = [str(x.relative_to(disk)) for x in (disk / "run").rglob("*")]
        check(not left, f"left behind: {left}")
    return ended.summary


def files_of_limited_size(place: Place) -> str:
    """no file may grow beyond 8 KB (as with a quota): a sentence, exit code 1"""
    workdir = place.partly_trained("quota")

    limit = prefix_of("prlimit", "--fsize=8192")
    env = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = place.start(workdir, prefix=limit, env=env)
    ended = process.finish(2 * END_WITHIN)
    good = workdir / f"checkpoints/{max(steps(workdir))}"
    check_sentence(ended, (1,), str(good))
    check_goes_on(place, workdir)
    return f"{ended.summary} ({ended.seconds:.1f} s), resumed"


def full_disk_of_the_log(place: Place) -> str:
    """only metrics.jsonl is full: the last state is saved; mended, it goes on"""
    if not pathlib.Path("/dev/full").exists():
        raise NotRun("there is no /dev/full")
    workdir = place.new("log")
    process = place.start(workdir)
    process.wait_until(lambda: last_logged(workdir) > LOOK_EVERY + 1)
    log, kept = workdir / "metrics.jsonl", workdir / "kept"
    link = workdir / "link"
    link.symlink_to("/dev/full")
    os.link(log, kept)
    link.replace(log)  # at once
    ended = check_ends_with_last_good(process, workdir, "No space left")
    check(max(steps(workdir)) % 10, "only a periodic save is there, not the last step")
    kept.replace(log)
    done = place.run(workdir)
    check(done.code == 0, f"afterwards: {done.summary}")
    return f"{ended.summary} ({ended.seconds:.1f} s), resumed"


def log_is_a_device(place: Place) -> str:
    """metrics.jsonl is a link to /dev/full at the start: no start waits for ever"""
    workdir = place.partly_trained("device")
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.jsonl").symlink_to("/dev/full")

    limit = prefix_of("prlimit", f"--as={16 << 30}")  # it could read for ever
    ended = place.start(workdir, prefix=limit).finish(END_WITHIN)
    check_sentence(ended, (1, 2), "metrics.jsonl")
    return ended.summary


def samples_cannot_be_written(place: Place) -> str:
    """samples/ is a file: the last state is saved, a sentence, exit code 1"""
    workdir = place.new("samples")
    workdir.mkdir()
    (workdir / "samples").write_text("")
    ended = check_ends_with_last_good(place.start(workdir), workdir, "samples")
    check(steps(workdir)[-1] == LOOK_EVERY, f"saved: {steps(workdir)}")
    (workdir / "samples").unlink()
    check_goes_on(place, workdir)
    return f"{ended.summary}, resumed"


def kill_while_the_disk_is_full(place: Place) -> str:
    """a full disk and SIGTERM together: it ends in time, nothing good is lost"""
    with filled_while_training(place) as (process, workdir, filler):
        process.send(signal.SIGTERM)
        ended = process.finish(END_WITHIN)
        check(ended.code == 1, ended.summary)
        check("Traceback" not in ended.stderr, ended.stderr[-300:])
        filler.unlink()
        check_goes_on(place, workdir)
    return f"{ended.summary}, resumed"


FAULTS = {
    "read_only_checkpoints": read_only_checkpoints,
    "becomes_read_only": checkpoints_become_read_only,
    "read_only_workdir": read_only_workdir,
    "no_workdir": workdir_that_cannot_be_made,
    "checkpoints_disappear": checkpoints_disappear,
    "full_disk": full_disk,
    "full_disk_at_start": full_disk_at_the_start,
    "full_disk_and_signal": kill_while_the_disk_is_full,
    "full_quota": files_of_limited_size,
    "full_log": full_disk_of_the_log,
    "log_is_a_device": log_is_a_device,
    "samples_is_a_file": samples_cannot_be_written,
}

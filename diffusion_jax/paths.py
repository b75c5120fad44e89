"""Paths as users write them, on the command line and in configs."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def local(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path of this machine's file system, with ~ expanded.

    Raises:
      ValueError: the path is a URL such as gs://bucket/run (bucket storage has to be
        mounted; for Google Cloud, with gcsfuse), or ~NAME names no user.
    """
    text = os.fspath(path)
    if _URL.match(text):
        scheme = text.partition("://")[0]
        raise ValueError(
            f"{text}: {scheme}:// addresses are not supported. Use a folder, or mount "
            "the bucket as one (such as with gcsfuse) and give its path."
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: {error} Correct the path.") from error


@contextlib.contextmanager
def writing(path: pathlib.Path | str) -> Iterator[None]:
    """Explains the disk's errors, which often have no file name, in one sentence.

    Args:
      path: what is written within the `with` statement.

    Raises:
      OSError: with the path and what to do.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} could not be written ({error.strerror or error}): free the disk, "
            "or correct its permissions, and run the same command again."
        ) from error

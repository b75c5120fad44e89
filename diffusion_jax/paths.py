"""Paths as users write them, on the command line and in configs."""

import os
import pathlib
import re

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

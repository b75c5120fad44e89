"""JSON without NaN and infinity, which other programs refuse to read."""

import json
import logging
import math
import pathlib
from typing import Any

LOGGER = logging.getLogger(__name__)


def dumps(value: Any, indent: int | None = None) -> str:
    """Returns the JSON of a value; floats that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects in a file of JSON lines; none if there is no file.

    A line that was cut short, as by a kill, is left out.
    """
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            LOGGER.warning("%s: left out a line that cannot be read.", path)
    return [x for x in found if isinstance(x, dict)]


def _finite(value: Any) -> Any:
    if isinstance(value, float):  # NumPy's float64 too
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return value

"""JSON without NaN and infinity, which other programs refuse to read."""

import json
import math
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """Returns the JSON of a value; floats that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):  # NumPy's float64 too
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return value

"""Looks up choices by name, with one error message for unknown names."""

from collections.abc import Mapping
from typing import Any


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Returns the value with the given name.

    Args:
      table: values by name.
      name: the name to look up.
      what: the config key or kind of name, such as "sample.sampler", for the message.

    Raises:
      ValueError: the name is unknown; the message lists the known names.
    """
    if name not in table:
        raise ValueError(f"Unknown {what} {name!r}. Known: {', '.join(table)}.")
    return table[name]

"""Choices by name: rows of a table, and the error for a name that has no row."""

from collections.abc import Mapping
from typing import Any


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Returns a row of a table.

    Args:
      table: rows by name.
      name: of the row.
      what: is being chosen, such as "sample.sampler"; begins the error message.

    Raises:
      ValueError: there is no such row; the message lists the names there are.
    """
    if name not in table:
        raise ValueError(f"Unknown {what} {name!r}. Known: {', '.join(table)}.")
    return table[name]

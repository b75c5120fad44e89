"""Takes grain's place where it is not installed, such as on a bare GPU machine.

Importing this file before `diffusion_jax.data.loader` is enough. Batches are then made
when they are asked for, instead of ahead of time in threads.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class MapDataset:
    """What the loader uses of grain.MapDataset."""

    def __init__(self, values: Iterable[Any]):
        self._values = values

    @classmethod
    def range(cls, start: int, stop: int) -> "MapDataset":
        """Yields start, ..., stop - 1."""
        return cls(range(start, stop))

    def map(self, function: Callable[[Any], Any]) -> "MapDataset":
        """Applies a function to each value."""
        return MapDataset(map(function, self._values))

    def to_iter_dataset(self, read_options: Any) -> Iterator[Any]:
        """Iterates over the values; the options are ignored."""
        return iter(self._values)


if importlib.util.find_spec("grain") is None:
    grain = types.ModuleType("grain")
    grain.MapDataset = MapDataset
    grain.ReadOptions = lambda **options: None
    sys.modules["grain"] = grain

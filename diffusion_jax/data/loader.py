"""Batches as a pure function of (seed, step); grain fetches them ahead in threads.

There is no iterator state to save: a run that stops after step k goes on with
`iterate(k, ...)` and sees what it would have seen. The global batch is the same for
every number of processes; each process takes one contiguous slice of it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator

import grain
import numpy as np

from diffusion_jax.data import sources, transforms

Batch = dict[str, np.ndarray]

_SHUFFLE, _FLIP = 0, 1  # Two streams of random numbers out of one seed,
_STREAMS = 2  # and as many more for a second source.


class Loader:
    """Shuffles, repeats, batches, flips and prefetches a source, or two domains.

    Each of two domains has an order, epochs and flips of its own, so that its examples
    are seen equally often, whatever the other's length.

    Args:
      source: the images; see `sources.make`. It may be smaller than a batch.
      batch_size: examples in a step, over all processes.
      seed: of the order and of the flips, >= 0.
      flip: mirror each image with probability 1/2.
      shuffle: a new order every epoch; otherwise the order of the source.
      process_index: which process this is.
      process_count: how many there are; must divide batch_size.

    Raises:
      ValueError: process_count does not divide batch_size, process_index is not
        below it, the seed is negative or the source is empty.
    """

    def __init__(
        self,
        source: sources.Source | sources.Unpaired,
        batch_size: int,
        seed: int,
        flip: bool = False,
        shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if batch_size < 1 or batch_size % process_count:
            raise ValueError(
                f"batch_size {batch_size} must be a positive multiple of the number "
                f"of processes, {process_count}; choose another batch_size."
            )
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index {process_index} must lie in 0..{process_count - 1}."
            )
        if seed < 0:
            raise ValueError(f"seed {seed} must not be negative.")
        if not len(source):
            raise ValueError("The source is empty; give one with at least one image.")
        self.source = source
        self.batch_size = batch_size
        self._local_size = batch_size // process_count
        self._offset = process_index * self._local_size
        self._runs = {
            suffix: _Run(one, seed, flip, shuffle, _STREAMS * number)
            for number, (suffix, one) in enumerate(sources.parts(source).items())
        }

    def batch_at(self, step: int) -> Batch:
        """Returns this process's share of the batch of one step.

        With b = batch_size / process_count. Each epoch visits every example once, and
        a batch may straddle epochs. It depends on (seed, step) alone; a flip depends
        on (seed, index) alone, so that no batch size or process count changes it.

        Args:
          step: >= 0.

        Returns:
          index: int32 [b], step * batch_size + position: the example's index in the
            run, which wraps round after 2^31 examples.
          image: float32 [b, H, W, C] in [-1, 1]; what is not a picture as it is.
          label: int32 [b].
          Of two domains instead: image_a, label_a, image_b, label_b.
        """
        index = self._global_index(step)
        return _batch(index, {s: run.examples(index) for s, run in self._runs.items()})

    def iterate(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """Yields (step, batch_at(step)) for start <= step < stop, fetched ahead."""
        return self._prefetch(self.batch_at, start, stop)

    def epoch(self) -> Iterator[Batch]:
        """Yields the source once, in its order and unflipped, in batches of one shape.

        Of two domains these are as many examples of each as the smaller one has, so
        that paired test sets stay paired. The last batch is padded with the last
        example at weight 0, so that sums and counts over all batches of all processes
        are exact; every process yields the same number of batches,
        ceil(len(source) / batch_size).

        Yields:
          As `batch_at`, with `index` the position in the pass, and
          weight: float32 [b], 1 for an example and 0 for padding.
        """
        steps = -(-len(self.source) // self.batch_size)
        for _, batch in self._prefetch(self._epoch_batch, 0, steps):
            yield batch

    def _epoch_batch(self, step: int) -> Batch:
        index = self._global_index(step)
        here = np.minimum(index, len(self.source) - 1)
        read = {s: sources.read(run.source, here) for s, run in self._runs.items()}
        weight = (index < len(self.source)).astype(np.float32)
        return _batch(index, read) | {"weight": weight}

    def _global_index(self, step: int) -> np.ndarray:
        first = step * self.batch_size + self._offset
        return np.arange(first, first + self._local_size, dtype=np.int64)

    def _prefetch(
        self, batch_of: Callable[[int], Batch], start: int, stop: int
    ) -> Iterator[tuple[int, Batch]]:
        in_memory = all(
            isinstance(run.source, sources.ArraySource) for run in self._runs.values()
        )
        threads = 1 if in_memory else min(16, os.cpu_count() or 1)
        steps = grain.MapDataset.range(start, stop)
        batches = steps.map(lambda step: (int(step), batch_of(int(step))))
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=threads + 2
        )
        yield from batches.to_iter_dataset(options)


class _Run:
    """One source without end: each epoch in an order of its own, and with flips."""

    def __init__(
        self,
        source: sources.Source,
        seed: int,
        flip: bool,
        shuffle: bool,
        first_stream: int,
    ):
        self.source = source
        self._seed = seed
        self._flip = flip
        self._shuffle = shuffle
        self._first_stream = first_stream
        self._order = functools.lru_cache(maxsize=4)(self._order_of_epoch)

    def examples(self, index: np.ndarray) -> sources.Example:
        """Returns the examples of consecutive indices in the run, int64 [b]."""
        read = sources.read(self.source, self._example_of(index))
        if self._flip:
            read["image"] = transforms.random_flip(read["image"], self._coins(index))
        return read

    def _example_of(self, index: np.ndarray) -> np.ndarray:
        """Maps indices in the run to indices in the source, both int64 [b]."""
        epochs, example = np.divmod(index, len(self.source))
        if self._shuffle:
            for epoch in np.unique(epochs):
                here = epochs == epoch
                example[here] = self._order(int(epoch))[example[here]]
        return example

    # Why NumPy and not grain's shuffle: a raw stream of Philox is the same in every
    # version of NumPy, the order of an epoch costs 0.1 us an example, and epoch e of
    # seed s is not epoch 0 of seed s + e. grain's walks a cycle of at least 2^16
    # entries: 30 us an example for 1500 images, 3 ms for eight.
    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        stream = np.random.Philox([self._seed, self._first_stream + _SHUFFLE, epoch])
        return np.argsort(stream.random_raw(len(self.source)), kind="stable")

    def _coins(self, index: np.ndarray) -> np.ndarray:
        """Returns bool [b]: the coins of consecutive indices in the run."""
        stream = np.random.Philox([self._seed, self._first_stream + _FLIP])
        # Philox makes four words a count; each index takes the first of its count.
        words = stream.advance(int(index[0])).random_raw(4 * len(index))[::4]
        return words >> np.uint64(63) == 1


def _batch(index: np.ndarray, read: dict[str, sources.Example]) -> Batch:
    """Names the examples of each source by its suffix."""
    batch = {"index": index.astype(np.int32)}
    for suffix, examples in read.items():
        batch["image" + suffix] = transforms.to_input(examples["image"])
        batch["label" + suffix] = examples["label"]
    return batch

"""Batches as a pure function of (seed, step), prefetched in threads by grain.

The loader has no state to save: a run that stopped after step k continues with
`iterate(k, ...)` and sees the same batches as without the stop. The global batch does
not depend on the number of processes; each process takes a contiguous slice of it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import grain
import numpy as np

from diffusion_jax.data import base, transforms

Batch = dict[str, np.ndarray]

_SHUFFLE, _FLIP = 0, 1  # independent streams of random numbers from one seed
_STREAMS = 2  # streams per source
# Lengths of batches of sequences: few, since the step is compiled for each of them, and
# at most half as long again as the one before.
BUCKETS = np.array([x << k for k in range(28) for x in (8, 12)])
# Batches among which examples are sorted into buckets. With more of them there is less
# padding, but rare lengths are in fewer steps, and less is learned of them.
POOL = 16


class Loader:
    """Shuffles, repeats, batches, flips and prefetches the examples of a source.

    The two sources of `base.Unpaired` each have their own order, epochs and flips, so
    that every example is seen equally often, regardless of the other's length.

    In bucketed batches the examples have similar lengths, and their padding is cut, to
    the smallest of BUCKETS that is long enough. An epoch is divided at random into
    pools of POOL batches, the examples of each pool are sorted by bucket, and all
    batches are shuffled. A batch that spans two epochs has examples of any length.

    Args:
      source: the examples; their number may be smaller than a batch.
      batch_size: examples per step, over all processes.
      seed: seed of the order and of the flips, >= 0.
      flip: mirror examples with probability 1/2: all images of an example or none.
      shuffle: use a new order every epoch instead of the order of the source.
      process_index: index of this process.
      process_count: number of processes; must divide batch_size.
      bucketed: group the examples by `Source.lengths`.

    Raises:
      ValueError: process_count does not divide batch_size, process_index is not
        below it, the seed is negative, the source is empty, captioned images would be
        mirrored, or batches are bucketed and lengths unknown.
    """

    def __init__(
        self,
        source: base.Source,
        batch_size: int,
        seed: int,
        flip: bool = False,
        shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        bucketed: bool = False,
    ):
        if batch_size < 1 or batch_size % process_count:
            raise ValueError(
                f"data.batch_size is {batch_size}; it must be a positive multiple of "
                f"the number of processes, {process_count}."
            )
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index is {process_index}; it must lie in "
                f"0..{process_count - 1}."
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative.")
        if not len(source):
            raise ValueError("The source is empty; it needs at least one example.")
        parts = source.parts if isinstance(source, base.Unpaired) else {"": source}
        if flip and any(_has_captions(part) for part in parts.values()):
            raise ValueError(
                "data.flip mirrors images, but not their captions, which may say left "
                "or right: set data.flip=False."
            )
        if bucketed and any(part.lengths is None for part in parts.values()):
            raise ValueError(
                "data.bucketed needs the lengths of the examples, which only pairs "
                "have: set data.bucketed=False."
            )
        options = batch_size, seed, flip, bucketed, shuffle
        self._parts = {
            suffix: _Epochs(part, *options, first_stream=_STREAMS * number)
            for number, (suffix, part) in enumerate(parts.items())
        }
        self._batch_size = batch_size
        local_size = batch_size // process_count
        first = process_index * local_size
        self._share = slice(first, first + local_size)

    def batch_at(self, step: int) -> Batch:
        """Returns this process's share of the batch of one step.

        Each epoch visits every example once, and a batch may span two epochs. The batch
        depends only on (seed, step), and a flip only on (seed, index), regardless of
        the number of processes and, unless bucketed, of the batch size.
        b = batch_size / process_count.

        Args:
          step: >= 0.

        Returns:
          index: int32 [b], step * batch_size + position in the batch; wraps around
            after 2^31 examples.
          [b, ...] for each field as the source has it: images as bytes, which
            `training.batches.normalise` maps to [-1, 1] on the device. Sequences have
            the same length in all processes.
        """
        first = step * self._batch_size
        index = np.arange(first, first + self._batch_size, dtype=np.int64)
        batch = {"index": index[self._share].astype(np.int32)}
        for suffix, part in self._parts.items():
            examples = part.examples(index, self._share)
            batch |= {k + suffix: x for k, x in examples.items()}
        return batch

    def iterate(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """Yields (step, batch_at(step)) for start <= step < stop, prefetched."""
        return prefetch(self.batch_at, start, stop)


@dataclasses.dataclass(eq=False)
class _Epochs:
    """One source, repeated forever, with a new order every epoch and random flips."""

    source: base.Source
    batch_size: int
    seed: int
    flip: bool
    bucketed: bool
    shuffle: bool
    first_stream: int

    def __post_init__(self):
        self._order = functools.lru_cache(maxsize=4)(self._order_of_epoch)

    def examples(self, index: np.ndarray, share: slice) -> Batch:
        """Returns the examples of a share of a batch.

        Args:
          index: int64 [B], consecutive indices in the run.
          share: which of them are read.
        """
        numbers = self._example_of(index)
        examples = self.source.read(numbers[share])
        if self.flip:
            coins = self._coins(index[share])
            for name in self._names("image"):
                examples[name] = transforms.random_flip(examples[name], coins)
        if self.bucketed:
            length = BUCKETS[bucket_of(self.source.lengths[numbers].max())]
            for name in self._names("tokens"):
                examples[name] = examples[name][:, :length]
        return examples

    def _names(self, kind: str) -> list[str]:
        """Returns the names of the fields of one kind."""
        return [name for name, x in self.source.fields.items() if x.kind == kind]

    def _example_of(self, index: np.ndarray) -> np.ndarray:
        """Maps indices in the run to indices in the source, both int64 [b]."""
        epochs, example = np.divmod(index, len(self.source))
        if self.shuffle:
            for epoch in np.unique(epochs):
                here = epochs == epoch
                example[here] = self._order(int(epoch))[example[here]]
        return example

    # NumPy instead of grain's shuffle: a raw stream of Philox is the same in every
    # version of NumPy, an epoch's order costs 0.1 us per example, and epoch e of seed
    # s differs from epoch 0 of seed s + e. grain's shuffle walks a cycle of at least
    # 2^16 entries: 30 us per example for 1500 images, 3 ms for eight.
    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        stream = np.random.Philox([self.seed, self.first_stream + _SHUFFLE, epoch])
        order = _permutation(stream, len(self.source))
        if self.bucketed:
            # The first examples may belong to the last batch of the epoch before.
            first = -epoch * len(order) % self.batch_size
            num_batches = max(0, len(order) - first) // self.batch_size
            whole = order[first:][: num_batches * self.batch_size]
            pool = np.arange(len(whole)) // (POOL * self.batch_size)
            by_bucket = np.lexsort((bucket_of(self.source.lengths[whole]), pool))
            batches = whole[by_bucket].reshape(num_batches, self.batch_size)
            whole[:] = batches[_permutation(stream, num_batches)].ravel()
        return order

    def _coins(self, index: np.ndarray) -> np.ndarray:
        """Returns bool [b], one coin for each of consecutive indices in the run."""
        stream = np.random.Philox([self.seed, self.first_stream + _FLIP])
        # Philox yields four words per count; each index uses the first of its count.
        words = stream.advance(int(index[0])).random_raw(4 * len(index))[::4]
        return words >> np.uint64(63) == 1


def _has_captions(source: base.Source) -> bool:
    kinds = {field.kind for field in source.fields.values()}
    return kinds >= {"image", "tokens"}


def _permutation(stream: np.random.Philox, size: int) -> np.ndarray:
    return np.argsort(stream.random_raw(size), kind="stable")


def bucket_of(length: np.ndarray) -> np.ndarray:
    """Returns the place in BUCKETS of the smallest one that is not below a length."""
    return np.searchsorted(BUCKETS, length)


def read(source: base.Source, index: np.ndarray) -> Batch:
    """Reads examples in the form in which they travel to the devices.

    Args:
      source: the examples.
      index: integers [b], >= 0; indices beyond the end of the source wrap around.

    Returns:
      index: int32 [b], and [b, ...] for each field as the source has it: images as
      bytes.
    """
    return {"index": index.astype(np.int32)} | source.read(index)


def to_batch(source: base.Source, index: np.ndarray) -> Batch:
    """Reads examples as `read` does, with images as float32 in [-1, 1]."""
    return {
        name: transforms.to_float(x) if x.dtype == np.uint8 else x
        for name, x in read(source, index).items()
    }


def prefetch(
    batch_of: Callable[[int], Batch], start: int, stop: int
) -> Iterator[tuple[int, Batch]]:
    """Yields (step, batch_of(step)) for start <= step < stop, computed in threads."""
    threads = min(16, os.cpu_count() or 1)
    steps = grain.MapDataset.range(start, stop)
    batches = steps.map(lambda step: (int(step), batch_of(int(step))))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
    yield from batches.to_iter_dataset(options)

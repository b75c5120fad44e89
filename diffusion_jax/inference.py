"""Runs a task over any number of examples, on all devices, as a stream of batches."""

import logging
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from diffusion_jax import progress
from diffusion_jax.data import loader
from diffusion_jax.data.base import Source
from diffusion_jax.methods import Task
from diffusion_jax.training import interrupts, parallel
from diffusion_jax.training.state import Variables

LOGGER = logging.getLogger(__name__)

LONG = 120.0  # seconds; work that takes longer is announced
Arrays = dict[str, np.ndarray]
Stream = Callable[[Variables, Source, int], Iterator[Arrays]]


def make_stream(
    task: Task, batch_size: int, seed: int, what: str = "Running", advice: str = ""
) -> Stream:
    """Makes a function that runs a task over the examples of a source, in order.

    All batches have the same shape, so the task is compiled once: the last batch is
    padded, and the padding is removed from its outputs. Each process computes an equal
    share of every batch and receives the rows of all processes, so every process must
    consume the stream.

    Args:
      task: the task to run.
      batch_size: examples per batch, over all devices of all processes; rounded up to a
        multiple of their number.
      seed: seed of the random numbers. A row depends only on the seed, the example and
        its index, not on the batch size or the number of devices.
      what: the work, for the progress bar, such as "Sampling".
      advice: a sentence on how to shorten it, logged with its duration if that is long.

    Returns:
      (variables, source, num) -> an iterator over batches of host arrays, [b, ...]: the
      task's outputs and the fields of the examples as the source has them, images as
      bytes (the task reads them in [-1, 1]). num is the number of rows; indices beyond
      the end of the source wrap around. If the program is asked to stop, it raises
      `interrupts.Stopped` before the next batch.
    """
    batch_size = parallel.round_up(batch_size)
    run = parallel.map_on_devices(task.run)
    is_compiled = False

    def stream(variables: Variables, source: Source, num: int) -> Iterator[Arrays]:
        nonlocal is_compiled
        key = jax.random.key(seed)

        def batch_at(number: int) -> Arrays:
            index = np.arange(number * batch_size, (number + 1) * batch_size)
            index = parallel.local_rows(np.minimum(index, num - 1))
            return loader.read(source, index)

        with progress.bar(what, num, parallel.process_index() == 0) as advance:
            is_new, is_compiled, started = not is_compiled, True, 0.0
            if is_new:
                LOGGER.info("%s: compiling.", what)
            num_batches = -(-num // batch_size)
            for number, batch in loader.prefetch(batch_at, 0, num_batches):
                interrupts.check()
                needed = {name: batch[name] for name in ("index", *task.inputs)}
                part = f"batch {number + 1} of {num_batches}"
                if is_new and number == 0:
                    part = f"compilation and {part}"
                with progress.waiting(f"{what}, {part}", parallel.process_index() == 0):
                    rows = parallel.all_rows(batch | run(variables, needed, key))
                cut = min(batch_size, num - number * batch_size)
                advance(cut)
                if number == 0:  # compiled
                    started = time.monotonic()
                elif number == 1 and num > 2 * batch_size:
                    seconds = (time.monotonic() - started) * num / batch_size
                    _announce(what, num, seconds, advice)
                yield {name: x[:cut] for name, x in rows.items()}

    return stream


def _announce(what: str, num: int, seconds: float, advice: str) -> None:
    """Logs how long the work takes, if that is long."""
    if seconds > LONG and parallel.process_index() == 0:
        text = f"{what}: {num} examples take about {progress.in_words(seconds)} here."
        LOGGER.info("%s", f"{text} {advice}".strip())


def collect(stream: Iterator[Arrays], *names: str) -> Arrays:
    """Concatenates the named arrays of all batches: [N, ...] each."""
    batches = [{name: batch[name] for name in names} for batch in stream]
    return {name: np.concatenate([x[name] for x in batches]) for name in names}

"""Decodes JPEGs in the loader's threads, in one thread and in a pool of processes.

Then it reads them from memory, where a source that is small enough keeps them.

    python -m benchmarks.decoding --size 1024 768

Each line is the median of some turns, one after the other; "cpu_ms" is the user and
system time of an image in this process.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from diffusion_jax.data import base, loader, sources

BATCH = 16
_source: base.Source | None = None  # of this process


def write_images(folder: pathlib.Path, size: tuple[int, int], num: int) -> None:
    """Writes JPEGs of smooth noise at several scales, as large on disk as photos."""
    for number in range(num):
        draws = np.random.default_rng(number)
        pixels = 128 + 3 * draws.normal(size=(*size[::-1], 3))
        for scale in (4, 8, 16, 32, 64, 128):
            rough = 128 + 40 * draws.normal(size=(scale, scale, 3))
            image = Image.fromarray(rough.clip(0, 255).astype(np.uint8))
            smooth = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
            pixels += (smooth - 128.0) * 3 / scale**0.5
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number:04}.jpg", quality=90)


def open_source(folder: pathlib.Path, image_size: int) -> None:
    """Opens the folder in this process."""
    global _source
    base.MAX_CACHED = 0  # every image is decoded every time
    _source = sources.make(f"folder:{folder}", "all", image_size, 3)


def batch_of(number: int, source: base.Source | None = None) -> dict[str, np.ndarray]:
    """Reads a batch, by default of what `open_source` has opened."""
    index = np.arange(number * BATCH, (number + 1) * BATCH)
    return loader.read(source or _source, index)


def timed(run: Callable[[], None], num: int) -> tuple[float, float]:
    """Returns images per second, and CPU time in milliseconds per image."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return num / seconds, 1e3 * cpu / num


def main() -> None:
    """Prints a JSON line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--size", nargs=2, type=int, default=[256, 256], help="of the files, pixels")
    add("--image_size", type=int, default=256, help="data.image_size")
    add("--images", type=int, default=500)
    add("--batches", type=int, default=20, help=f"of {BATCH} images, in a turn")
    add("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_images(folder, tuple(options.size), options.images)
        num_bytes = sum(path.stat().st_size for path in folder.iterdir())
        arguments = folder, options.image_size
        open_source(*arguments)
        context = multiprocessing.get_context("spawn")
        with context.Pool(os.cpu_count(), open_source, arguments) as pool:
            pool.map(batch_of, range(os.cpu_count()))
            numbers = range(options.batches)
            from_memory = functools.partial(batch_of, source=base.Cached(_source))
            for number in numbers:
                from_memory(number)
            ways = {
                "one thread": lambda: [None for n in numbers if not batch_of(n)],
                "the loader's threads": lambda: list(
                    None for _ in loader.prefetch(batch_of, 0, options.batches)
                ),
                "processes": lambda: [None for x in pool.imap(batch_of, numbers)],
                "from memory, in threads": lambda: list(
                    None for _ in loader.prefetch(from_memory, 0, options.batches)
                ),
            }
            found = {way: [] for way in ways}
            for _ in range(options.turns):
                for way, run in ways.items():
                    found[way].append(timed(run, BATCH * options.batches))
    for way, turns in found.items():
        rates, cpu = zip(*turns, strict=True)
        line = {
            "way": way,
            "size": options.size,
            "image_size": options.image_size,
            "kilobytes": round(num_bytes / options.images / 1e3),
            "images_per_second": round(statistics.median(rates), 1),
            "lowest": round(min(rates), 1),
            "highest": round(max(rates), 1),
            "cpu_ms": round(statistics.median(cpu), 2),
            "cores": os.cpu_count(),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

"""Decoded images that stay in memory: each is decoded once, if all of them fit."""

import tracemalloc
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import base, loader, sources


@pytest.mark.parametrize(
    "limit, times", [(6 * 8 * 8 * 3, 1), (6 * 8 * 8 * 3 - 1, 3), (0, 3)]
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_each_is_decoded_once(tmp_path, monkeypatch, limit, times, on_error):
    """Images that fit into the limit are decoded once, others each time, and they are
    the same; a reader may change its example."""
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(base, "MAX_CACHED", limit)
    opened = []
    read = base.transforms.read_image
    monkeypatch.setattr(
        base.transforms, "read_image", lambda path: opened.append(path) or read(path)
    )
    source = sources.make(f"folder:{tmp_path}", "all", 8, 3, on_error=on_error)
    index = np.arange(6)
    first = source.read(index)
    for i in range(6):
        source[i].clear()
    np.testing.assert_array_equal(source.read(index)["image"], first["image"])
    assert len(opened) == times * 6 and len({*opened}) == 6
    assert len(source) == 6 and source.identities() is not None


def test_what_cannot_be_read_is_not_cached():
    """An example that fails is tried again."""
    attempts = []

    def decode(i):
        attempts.append(i)
        if len(attempts) == 1:
            raise OSError("the disk is away")
        return {"label": i}

    lazy = base.LazySource(3, decode, {"label": base.label_field(3)})
    source = base.Cached(lazy)
    with pytest.raises(OSError):
        source[1]
    assert source[1]["label"] == source[1]["label"] == 1 and attempts == [1, 1]


def pictures(num, side):
    """A source of pictures that differ, also from their mirror images."""
    fields = {"image": base.image_field((side, side, 1)), "label": base.label_field(9)}

    def decode(i):
        pixels = np.arange(i, i + side**2).reshape(side, side, 1) % 251
        return {"image": pixels.astype(np.uint8), "label": i % 9}

    return base.LazySource(num, decode, fields)


def test_many_threads_agree():
    """Threads that read the same examples at once get the same as one that decodes."""
    lazy = pictures(200, 8)
    source, index = base.Cached(lazy), np.arange(200)
    with futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: source.read(index), range(16)))
    for name, expected in lazy.read(index).items():
        for rows in found:
            np.testing.assert_array_equal(rows[name], expected)
            assert rows[name].dtype == expected.dtype


def test_flips_do_not_change_what_is_cached():
    """Batches are those of the same source without a cache, also in later epochs."""
    loaders = [
        loader.Loader(source, 8, seed=0, flip=True)
        for source in (pictures(20, 4), base.Cached(pictures(20, 4)))
    ]
    for step in range(8):
        plain, cached = (x.batch_at(step) for x in loaders)
        for name, x in plain.items():
            np.testing.assert_array_equal(cached[name], x)


def test_memory_is_that_of_the_pixels():
    """The cache of many small pictures takes their bytes, and little more."""
    num, side = 4000, 8
    tracemalloc.start()
    try:
        source = base.Cached(pictures(num, side))
        for i in range(num):
            source[i]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num * side**2 <= size <= 1.3 * num * side**2

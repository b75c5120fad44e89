"""Decoded images that stay in memory: each is decoded once, if all of them fit."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import base, sources


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
    monkeypatch.setattr(base, "MAX_KEPT", limit)
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


def test_what_cannot_be_read_is_not_kept():
    """An example that fails is tried again."""
    attempts = []

    def decode(i):
        attempts.append(i)
        if len(attempts) == 1:
            raise OSError("the disk is away")
        return {"label": i}

    lazy = base.LazySource(3, decode, {"label": base.label_field(3)})
    source = base.Kept(lazy)
    with pytest.raises(OSError):
        source[1]
    assert source[1]["label"] == source[1]["label"] == 1 and attempts == [1, 1]

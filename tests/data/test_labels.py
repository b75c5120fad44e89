"""Both ends of integers that index: labels, tokens and partners."""

import functools

import numpy as np
import pytest
from prepared import prepare
from test_sources import write_idx

from diffusion_jax.data import base, loader, sources

WRONG = [-1, -(2**31), 2**31, 2**32, 2**32 + 1, 2**63 - 1]


def refused(label, make):
    with pytest.raises(
        ValueError, match=rf"label.*{label}.*must lie in 0\.\."
    ) as found:
        make()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("label", WRONG)
def test_npz(tmp_path, label):
    """Point 14: a label beyond int32 does not wrap around to a class."""
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, label]))
    refused(label, lambda: sources.make(f"npz:{tmp_path}/a.npz", "train", 8, 1))


def test_unsigned_labels(tmp_path):
    """Point 14: the largest uint64 is refused, and uint8 labels are converted."""
    images = np.zeros((2, 8, 8), np.uint8)
    source = f"npz:{tmp_path}/a.npz"
    np.savez(tmp_path / "a.npz", images=images, labels=np.uint64([0, 2**64 - 1]))
    refused(2**64 - 1, lambda: sources.make(source, "train", 8, 1))
    np.savez(tmp_path / "a.npz", images=images, labels=np.uint8([0, 255]))
    assert sources.make(source, "train", 8, 1).arrays["label"].tolist() == [0, 255]


def test_idx(tmp_path):
    """Point 14: bytes are labels of 0..255."""
    labels = np.array([0, 255], np.uint8)
    write_idx(tmp_path, "train", np.zeros((2, 8, 8), np.uint8), labels, False)
    source = sources.make(f"idx:{tmp_path}", "train", 8, 1)
    assert source.arrays["label"].tolist() == [0, 255]
    assert source.fields["label"].size == 256


@pytest.mark.parametrize("label", [-1, 10, 2**31, 2**32 + 1])
def test_tfds(tmp_path, label):
    """Point 14: labels that are decoded are checked when they are read, also by the
    loader, also in the negatives of a source."""
    prepare(tmp_path, "tiny", (8, 8, 1), np.zeros((2, 8, 8, 1), np.uint8), [3, label])
    for name in ("tfds:tiny", "inverted:tfds:tiny"):
        source = sources.make(name, "train", 8, 1, str(tmp_path))
        assert source[0]["label"] == 3 and source[0]["label"].dtype == np.int32
        refused(label, functools.partial(source.__getitem__, 1))
        batches = loader.Loader(source, 2, seed=0).iterate(0, 1)
        refused(label, functools.partial(list, batches))


@pytest.mark.parametrize("kind, shape", [("label", ()), ("tokens", (2,))])
@pytest.mark.parametrize("size", [None, 5])
def test_any_source(kind, shape, size):
    """Point 14: labels and tokens of any source are >= 0 and below their size, in
    memory when it is opened, otherwise when they are read."""
    fields = {"x": base.Field(shape, np.int32, kind, size=size)}
    for value in [-1] + [5] * (size is not None):
        array = np.full((3, *shape), value, np.int32)
        with pytest.raises(ValueError, match=rf"x lies in {value}\.\.{value}"):
            base.ArraySource({"x": array}, fields)
    for value in [-1, 2**31, 2**32] + [5] * (size is not None):
        example = {"x": np.full(shape, value)}
        lazy = base.LazySource(3, lambda i, example=example: example, fields)
        with pytest.raises(ValueError, match=rf"x of example 1 lies in {value}\.\."):
            lazy[1]
    lazy = base.LazySource(3, lambda i: {"x": np.full(shape, 1.5)}, fields)
    with pytest.raises(ValueError, match="x of example 0 is float64.*integers"):
        lazy[0]


def test_partners():
    """Point 14: a partner is not before its example, and its index does not wrap."""
    with pytest.raises(ValueError, match="offset of pairs.*-1.*0"):
        base.Pairs(base.Range(3), -1)
    pairs = base.Pairs(base.Range(3), 2**31 - 2)
    assert pairs.read(np.array([1]))["partner_index"] == 2**31 - 1
    with pytest.raises(ValueError, match="partner_index lies in 2147483648"):
        pairs.read(np.array([2]))

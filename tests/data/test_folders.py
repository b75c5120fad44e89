"""Folders of images: their layout, names, links and held-out part."""

import logging
import os
import re

import numpy as np
import pytest
from PIL import Image
from prepared import prepare

from diffusion_jax.data import base, sources, transforms

RNG = np.random.default_rng(0)


def fill(root, *places):
    """Writes an image to each place."""
    for place in places:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).save(path)


def make(root, split="all", **options):
    return sources.make(f"folder:{root}", split, 4, 3, **options)


def labels(source):
    return [int(source[i]["label"]) for i in range(len(source))]


def refused(root, *words, split="train", error=ValueError):
    with pytest.raises(error) as caught:
        make(root, split)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence, sentence


def files_of(source):
    """The paths of all examples below the working folder, with links resolved."""
    read, paths = transforms.read_image, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "read_image", lambda x: paths.append(x) or read(x))
        for i in range(len(source)):
            source[i]
    return {os.path.relpath(os.path.realpath(path)) for path in paths}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "MAX_CACHED", 0)  # files_of sees every reading


def test_what_the_issue_names(tmp_path):
    """Point 12: a folder called like a split, a stray image and what archives leave are
    no classes; the first two are refused, the third is ignored."""
    fill(tmp_path, "cat/a.png", "dog/a.png", "testing/a.png", "stray.png")
    fill(tmp_path, "__MACOSX/cat/._a.png", "__MACOSX/b.png", ".cache/a.png")
    refused(tmp_path, "testing", "cat/a.png", "move all images into split folders")
    (tmp_path / "testing" / "a.png").rename(tmp_path / "cat" / "b.png")
    refused(tmp_path, "stray.png", "class folder")
    (tmp_path / "stray.png").unlink()
    (tmp_path / "emu").mkdir()
    source = make(tmp_path)
    assert source.fields["label"].size == 2 and labels(source) == [0, 0, 1]


def test_numbers_are_sorted_as_numbers(tmp_path):
    """Point 12: class 10 follows class 9, in names that are numbers or contain one."""
    for names in (
        ["-1", "0", "0.5", "1", "2", "10"],
        ["7", "009", "10", "cat"],
        ["class1", "class2", "class10", "other"],
    ):
        root = tmp_path / names[-1]
        fill(root, *(f"{name}/a.png" for name in names))
        source = make(root)
        by_path = sorted(names, key=lambda name: f"{name}/a.png")
        assert [names[label] for label in labels(source)] == by_path


@pytest.mark.parametrize(
    "folder, splits",
    [
        ("train", ["train", "Training"]),
        ("Training", ["train"]),
        ("TRAIN", ["train"]),
        ("val", ["val", "valid", "validation"]),
        ("Valid", ["validation", "val"]),
        ("validation", ["val"]),
        ("test", ["test", "testing"]),
        ("Testing", ["test"]),
    ],
)
def test_names_of_splits(tmp_path, folder, splits):
    """Point 12: each split has several names, in any case, asked for by any of them."""
    fill(tmp_path, f"{folder}/cat/a.png", f"{folder}/dog/b.png")
    for split in splits:
        assert labels(make(tmp_path, split)) == [0, 1]
    refused(tmp_path, "Unknown split", "Known:", split="all")


def test_two_folders_of_one_split_are_refused(tmp_path):
    """Point 12: it is not guessed which of them is meant."""
    fill(tmp_path, "val/a.png", "validation/b.png", "train/c.png")
    refused(tmp_path, "val and validation", "'validation'", "merge or rename")


def test_mixtures_are_refused(tmp_path):
    """Point 12: no image lies beside folders of classes or splits, in any split, and a
    split without classes has no labels where others have classes."""
    fill(tmp_path / "a", "train/cat/a.png", "test/dog/b.png", "test/stray.png")
    refused(tmp_path / "a", "test/stray.png", "'dog'")
    fill(tmp_path / "b", "train/a.png", "stray.png")
    refused(tmp_path / "b", "stray.png", "train")
    fill(tmp_path / "c", "train/cat/a.png", "test/b.png")
    assert labels(make(tmp_path / "c", "train")) == [0]
    refused(tmp_path / "c", "'test' has no folders of classes", "cat", split="test")


def test_what_is_logged(tmp_path, caplog):
    """Point 12: the numbers of images and classes, the classes, and what is skipped
    with its reasons; long lists are shortened."""
    caplog.set_level(logging.INFO, "diffusion_jax")
    fill(tmp_path, "cat/a.png", "dog/deep/b.png", "dog/c.png")
    (tmp_path / "dog" / "labels.csv").write_text("")
    (tmp_path / "README").write_text("")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "cat" / "again.png").symlink_to("a.png")
    make(tmp_path)
    (message,) = caplog.messages
    assert "3 pictures, 2 classes: 0=cat 1=dog, 4 skipped" in message
    for words in ("2 other types: README .csv", "1 broken links", "1 repeated"):
        assert words in message
    assert "gone.png" in message and "again.png" in message
    caplog.clear()
    fill(tmp_path / "many", *(f"{i}/a.png" for i in range(100)))
    make(tmp_path / "many")
    assert "100 pictures, 100 classes: 0=0 1=1" in caplog.text
    assert "... 99=99, 0 skipped" in caplog.text and len(caplog.text) < 400


def test_held_out_part(tmp_path):
    """Point 12: without splits, 'train' and 'test' are a partition of 'all'; the share
    is data.held_out (5 sigma), and 0 leaves no 'test'."""
    fill(tmp_path, *(f"{i % 3}/{i}.png" for i in range(400)))
    for share in (0.1, 0.5):
        train, test = (
            files_of(make(tmp_path, s, held_out=share)) for s in ("train", "test")
        )
        assert not train & test and train | test == files_of(make(tmp_path))
        assert test == files_of(make(tmp_path, "validation", held_out=share))
        sigma = np.sqrt(share * (1 - share) / 400)
        assert abs(len(test) / 400 - share) < 5 * sigma
    assert len(make(tmp_path, "train", held_out=0)) == 400
    with pytest.raises(ValueError, match="Unknown split.*'test'.*Known: train, all"):
        make(tmp_path, "test", held_out=0)
    for share in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"held_out is .*; it must be in \[0, 1\)"):
            make(tmp_path, "train", held_out=share)


def test_held_out_part_is_stable(tmp_path):
    """Point 12: more files, another root and another way to write accents move no
    file from one part to the other."""
    few = [f"cat/{i}.png" for i in range(50)]
    fill(tmp_path / "few", *few)
    fill(tmp_path / "more", *few, *(f"dog/{i}.png" for i in range(50)))
    held_out = {
        root: {path.partition("/")[2] for path in files_of(make(tmp_path / root, s))}
        for root, s in (("few", "test"), ("more", "test"))
    }
    assert held_out["few"] and held_out["few"] == {
        path for path in held_out["more"] if path.startswith("cat")
    }
    parts = []
    for accent in ("\u00e9", "e\u0301"):  # one letter, or two
        root = tmp_path / accent
        fill(root, *(f"{accent}{i}.png" for i in range(50)))
        found = files_of(make(root, "test"))
        parts.append({re.search(r"(\d+)\.png", path)[1] for path in found})
    assert parts[0] == parts[1]


@pytest.mark.parametrize("num", [2, 3, 5])
@pytest.mark.parametrize("share", [0.001, 0.999])
def test_small_folders_have_both_parts(tmp_path, num, share):
    """Point 12: every config works on two images: neither part is empty."""
    fill(tmp_path, *(f"{i}.png" for i in range(num)))
    sizes = [len(make(tmp_path, s, held_out=share)) for s in ("train", "test")]
    assert min(sizes) == 1 and sum(sizes) == num


def test_circles_of_links(tmp_path):
    """Point 13: links to a parent, to each other and to themselves end, and every image
    is read once, in its own class."""
    fill(tmp_path, "cat/a.png", "dog/b.png", "dog/deep/c.png")
    (tmp_path / "cat" / "loop").symlink_to("..")
    (tmp_path / "aardvark").symlink_to("dog")
    (tmp_path / "dog" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "ping").symlink_to("pong")
    (tmp_path / "cat" / "pong").symlink_to("ping")
    (tmp_path / "self").symlink_to("self")
    source = make(tmp_path)
    assert files_of(source) == {"cat/a.png", "dog/b.png", "dog/deep/c.png"}
    assert labels(source) == [0, 1, 1]


def test_links_are_followed(tmp_path):
    """Point 13: linked folders and files elsewhere are read; a link's own name says
    that it is an image, as in folders of links to files named by their hashes."""
    fill(tmp_path / "elsewhere", "x/a.png", "b.png")
    (tmp_path / "elsewhere" / "b.png").rename(tmp_path / "elsewhere" / "0123abcd")
    root = tmp_path / "root"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "x")
    (root / "dog" / "b.png").symlink_to(tmp_path / "elsewhere" / "0123abcd")
    (root / "emu").symlink_to(tmp_path / "elsewhere" / "x")
    source = make(root)
    assert labels(source) == [0, 1]
    assert files_of(source) == {"elsewhere/x/a.png", "elsewhere/0123abcd"}


def test_what_is_no_file(tmp_path):
    """Point 13: a pipe that is called like an image is not waited for."""
    fill(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert len(make(tmp_path)) == 1


def test_paths_of_the_user(tmp_path, monkeypatch):
    """Point 12: ~ is the home folder, for folders and files, and URLs are refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, "images/a.png")
    assert len(sources.make("folder:~/images", "all", 4, 3)) == 1
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    assert len(sources.make("npz:~/a.npz", "train", 4, 3)) == 2
    prepare(tmp_path / "tfds", "tiny", (4, 4, 3), np.zeros((3, 4, 4, 3), np.uint8))
    assert len(sources.make("tfds:tiny", "train", 4, 3, "~/tfds")) == 3
    for kind in ("folder", "npz", "idx"):
        with pytest.raises(ValueError, match="gs://.*not supported"):
            sources.make(f"{kind}:gs://bucket/x", "train", 4, 3)

"""Held-out data: examples are compared, not the names of splits."""

import pathlib
import runpy
import shutil

import numpy as np
import pytest
from PIL import Image
from prepared import prepare

from diffusion_jax import run_data
from diffusion_jax.evaluators.base import check_held_out

ROOT = pathlib.Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


def load(name, **changes):
    """The config NAME:tiny; keys of changes are GROUP__NAME."""
    config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")
    values = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(values)
    return config


def of_splits(source, train, held_out, **changes):
    changes |= {"data__train_split": train, "eval__split": held_out}
    return load("digits_gan", data__source=source, **changes)


def refused(config, *words):
    with pytest.raises(ValueError) as caught:
        check_held_out(config)
    sentence = str(caught.value)
    assert "\n" not in sentence and "needs held-out data" in sentence
    for word in words:
        assert word in sentence, sentence


def test_digits():
    """Point 16: 'all' contains the whole of 'test', in the negatives too; images that
    happen to be equal in 'train' and 'test' are no matter."""
    for source in ("digits", "inverted:digits"):
        refused(
            of_splits(source, "all", "test"),
            "359 of the 359 examples of eval.split 'test' are also in "
            "data.train_split 'all'",
        )
        refused(of_splits(source, "train", "all"), "1438 of the 1797")
        refused(of_splits(source, "train", "train_odd"), "719 of the 719")
        check_held_out(of_splits(source, "train", "test"))
        check_held_out(of_splits(source, "train_even", "train_odd"))


def test_two_domains():
    """Point 16: either domain is compared with its own training data."""
    config = load("digits_cyclegan")
    check_held_out(config)
    config.eval.split_b = "all"
    refused(config, "719 of the 1797", "eval.split_b 'all'", "data.train_split_b 'tr")
    config.eval.split_b, config.eval.split = "test", "train_even"
    refused(config, "719 of the 719", "eval.split 'train_even'")


def test_folder(tmp_path):
    """Point 16: files are compared; the held-out part of a folder is not in 'train'.
    Copies of the training images, under other names, are refused."""
    for i in range(40):
        pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        (tmp_path / "whole").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "whole" / f"{i}.png")
    shutil.copytree(tmp_path / "whole", tmp_path / "copied" / "train")
    shutil.copytree(tmp_path / "whole", tmp_path / "copied" / "test")
    for path in (tmp_path / "copied" / "test").iterdir():
        path.rename(path.with_stem(f"copy{path.stem}"))
    refused(of_splits(f"folder:{tmp_path}/copied", "train", "test"), "40 of the 40")
    source = f"folder:{tmp_path}/whole"
    check_held_out(of_splits(source, "train", "test"))
    refused(of_splits(source, "all", "test"), "examples of eval.split 'test'")
    refused(of_splits(source, "all", "all"), "40 of the 40")
    refused(of_splits(f"inverted:{source}", "all", "train"), "data.train_split 'all'")
    config = of_splits(source, "train", "test", data__on_error="skip")
    check_held_out(config)
    config.data.train_split = "all"
    refused(config, "'all'")


def test_tfds(tmp_path):
    """Point 16: parts of a TFDS split are compared by position, over several files."""
    images = RNG.integers(0, 256, (20, 8, 8, 1), np.uint8)
    prepare(tmp_path, "tiny", (8, 8, 1), images, splits=("train", "test"))
    options = {"data__data_dir": str(tmp_path)}
    for train, held_out, num in (
        ("train", "test", 0),
        ("train[:50%]", "train[50%:]", 0),
        ("train[:6]", "train[4:]", 2),
        ("train+test", "test[:3]", 3),
        ("train", "train", 10),
        ("test[:5]+train[5:]", "train[:5]+test[4:]", 1),
    ):
        config = of_splits("tfds:tiny", train, held_out, **options)
        if num:
            refused(config, f"{num} of the ")
        else:
            check_held_out(config)


def test_equal_images_of_arrays(tmp_path, caplog):
    """Point 16: arrays are compared by content, whatever their labels: a few equal
    images, which real data have, are a warning, more are refused."""
    images = RNG.integers(0, 256, (300, 8, 8, 1), np.uint8)
    for num, words in ((0, None), (2, None), (3, "3 of the 100"), (100, "100 of the")):
        tests = np.concatenate([images[:num], images[200 : 300 - num]])
        np.savez(
            tmp_path / "a.npz",
            images=images[:200],
            labels=np.arange(200),
            test_images=tests,
            test_labels=np.arange(100)[::-1],
        )
        config = of_splits(f"npz:{tmp_path}/a.npz", "train", "test")
        run_data.forget()  # another file of the same name
        caplog.clear()
        if words:
            refused(config, words)
        else:
            check_held_out(config)
            assert len(caplog.messages) == bool(num)
    assert "2 of the 100 examples" not in caplog.text

"""Surveys of folders: sizes, colours, classes and splits of generated pictures."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import sources

ORIENTATION = 274  # of EXIF; 6: turned by 90 degrees


def save(path, height, width, mode="RGB", tint=(200, 30, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height), tint)
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.save(path, **options)


def test_sizes_are_medians(tmp_path):
    """Height and width are medians over the training pictures, as they are seen: one
    that its camera has turned counts upright."""
    for i, width in enumerate((50, 60, 300)):
        save(tmp_path / f"train/{i}.png", 40, width)
    save(tmp_path / "test/0.png", 1000, 1000)
    found = sources.look_at(f"folder:{tmp_path}", "train", 0.1)
    assert found[:5] == (3, "test", 40, 60, False)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for i in range(3):
        save(tmp_path / f"train/{i}.png", 40, 90, exif=exif)
    found = sources.look_at(f"folder:{tmp_path}", "train", 0.1)
    assert found[2:5] == (90, 40, True)


@pytest.mark.parametrize(
    "mode, tint, suffix, grey",
    [
        ("L", (90, 90, 90), "png", True),
        ("LA", (90, 90, 90), "png", True),
        ("RGB", (90, 90, 90), "jpg", True),
        ("P", (90, 90, 90), "png", True),
        ("RGB", (200, 30, 30), "jpg", False),
        ("RGBA", (200, 30, 30), "png", False),
        ("P", (200, 30, 30), "png", False),
    ],
)
def test_grey_is_what_has_no_colours(tmp_path, mode, tint, suffix, grey):
    """Whatever the mode, pictures are grey if their pixels are; one with colours is
    enough for the folder to have some."""
    for i in range(4):
        save(tmp_path / f"{i}.png", 20, 20, "L")
    save(tmp_path / f"x.{suffix}", 20, 20, mode, tint)
    assert sources.look_at(f"folder:{tmp_path}", "all", 0.1).grey == grey


def test_splits_and_classes(tmp_path):
    """Classes are subfolders; without split folders, a share is held out, unless there
    is only one picture or the share is 0."""
    save(tmp_path / "one/0.png", 9, 9)
    source = f"folder:{tmp_path}"
    assert sources.look_at(source, "train", 0.1)[:2] == (1, "")
    for i in range(19):
        save(tmp_path / f"two/{i}.png", 9, 9)
    found = sources.look_at(source, "train", 0.1)
    assert found.num_classes == 2 and found.held_out == "test"
    assert found.num_train < 20
    assert sources.look_at(source, "train", 0.0)[:2] == (20, "")
    assert sources.look_at(source, "all", 0.1)[:2] == (20, "")  # trained on
    assert sources.look_at("digits", "train", 0.1).held_out == "test"
    assert sources.look_at("digits", "all", 0.1).held_out == ""


def test_unreadable_pictures_are_left_to_training(tmp_path):
    """Damaged files do not count, unless all are damaged."""
    (tmp_path / "0.png").write_bytes(b"no picture")
    source = f"folder:{tmp_path}"
    with pytest.raises(ValueError, match="none of the 1 pictures can be read"):
        sources.look_at(source, "train", 0.1)
    save(tmp_path / "1.png", 30, 20)
    assert sources.look_at(source, "all", 0.1)[2:4] == (30, 20)


def test_arrays(tmp_path):
    """An npz file of images without a test split is described by its arrays."""
    images = np.zeros((12, 10, 14, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(12) % 3)
    found = sources.look_at(f"npz:{tmp_path}/x.npz", "train", 0.1)
    assert found == (12, "", 10, 14, True, False, 3, False, "")

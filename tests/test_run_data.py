"""The data that a config names: options reach the sources, labels fit the network."""

import numpy as np
import pytest
from PIL import Image
from prepared import prepare
from smoke import load

from diffusion_jax import run_data
from diffusion_jax.data import loader


@pytest.fixture
def images(tmp_path):
    """A folder of 20 half transparent images of two classes, one of them damaged."""
    for i in range(20):
        path = tmp_path / str(i % 2) / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGBA", (8, 8), (i, 0, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[:45])
    return tmp_path


def of_folder(images, **values):
    config = load("digits")
    config.data.update(source=f"folder:{images}", train_split="all", **values)
    return config


def test_options_of_the_data(images):
    """Points 7, 11 and 12: group data has the background, the held-out share and what
    happens with damaged examples."""
    config = of_folder(images, background="black", on_error="skip")
    source = run_data.open_train(config)
    assert source.read(np.arange(20))["image"].max() == 0
    config.data.background = "white"
    assert run_data.open_train(config)[0]["image"].min() == 255
    config.data.held_out = 0.5
    half = len(run_data.open_held_out(config))
    config.data.held_out = 0.05
    assert 1 <= len(run_data.open_held_out(config)) < half
    config.data.on_error = "raise"
    with pytest.raises(ValueError, match="19.png cannot be read.*data.on_error=skip"):
        run_data.open_train(config).read(np.arange(20))


def test_check_files(images):
    """Point 7: data.check_files finds damaged files when the data are opened."""
    run_data.open_train(of_folder(images))
    with pytest.raises(ValueError, match="1 of 20 examples cannot be read: .*19.png"):
        run_data.open_train(of_folder(images, check_files=True))
    run_data.open_train(of_folder(images, check_files=True, on_error="skip"))


def test_unknown_number_of_classes(tmp_path):
    """Point 14: labels of a source that does not know its classes are compared with
    model.num_classes when they are read, at both ends."""
    import tensorflow_datasets as tfds

    pixels = np.zeros((3, 8, 8, 1), np.uint8)
    for label in (-1, 2, 2**32):
        folder = tmp_path / str(label)
        prepare(folder, "tiny", (8, 8, 1), pixels, [0, 1, label])
        (info,) = folder.glob("tiny/*/features.json")
        info.unlink()
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.Scalar(np.int64),
        }
        tfds.features.FeaturesDict(features).save_config(info.parent)
        config = load("digits_dcgan")
        config.data.update(source="tfds:tiny", data_dir=str(folder))
        config.model.num_classes = 2
        source = run_data.open_train(config)
        assert source.fields["label"].size == 2 and source[1]["label"] == 1
        with pytest.raises(ValueError, match=rf"label.* lies in {label}\.\."):
            list(loader.Loader(source, 3, seed=0).iterate(0, 1))
        config.model.num_classes = 3
        assert (label == 2) == _is_readable(run_data.open_train(config), 2)


def _is_readable(source, i):
    try:
        source[i]
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", ["folder", "tfds"])
def test_data_without_labels(tmp_path, kind):
    """Point 14: a network with classes refuses data whose labels are all 0."""
    config = load("digits_dcgan")
    config.model.num_classes = 10
    if kind == "tfds":
        prepare(tmp_path, "tiny", (8, 8, 1), np.zeros((3, 8, 8, 1), np.uint8))
        config.data.update(source="tfds:tiny", data_dir=str(tmp_path))
    else:
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        config.data.source = f"folder:{tmp_path}"
    with pytest.raises(ValueError, match="Every label of .* is 0.*nothing to learn"):
        run_data.open_train(config)

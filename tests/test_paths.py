"""Paths as users write them: ~ is expanded, and URLs are refused, everywhere."""

import pathlib

import pytest
from smoke import load

from diffusion_jax import paths, run_data
from diffusion_jax.evaluators.feature_extractors import open_feature_extractor
from diffusion_jax.scorers import open_scorer
from diffusion_jax.training_loop import train

URLS = [
    "gs://bucket/run",
    "s3://bucket/run",
    "hdfs://host:9000/run",
    "GS://x",
    "a+b://x",
]


@pytest.mark.parametrize("url", URLS)
def test_urls_are_refused(url):
    """Point 23: no folder gs:/... is made; a sentence says what to do instead."""
    with pytest.raises(ValueError, match="addresses are not supported.*mount") as error:
        paths.local(url)
    assert str(error.value).startswith(url) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["runs/x", "/a b/c", "c:/x", "a:b", "./x//y"])
def test_other_paths_are_kept(path):
    """Point 23: what is no URL stays as it is."""
    assert paths.local(path) == pathlib.Path(path)


def test_home(monkeypatch):
    """Point 18: ~ is the home folder; one that does not exist is named."""
    monkeypatch.setenv("HOME", "/somewhere")
    assert paths.local("~/runs") == pathlib.Path("/somewhere/runs")
    assert paths.local(pathlib.Path("~")) == pathlib.Path("/somewhere")
    with pytest.raises(ValueError, match="~nosuchuser/x: .*Correct the path"):
        paths.local("~nosuchuser/x")


@pytest.fixture
def home(monkeypatch, tmp_path):
    """The home folder, with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def open_source(source, **data):
    config = load("digits_autoencoder")
    config.data.update(source=source, **data)
    return run_data.open_train(config)


def train_from(path, home):
    train(load("digits_autoencoder", train__init_from=f"net={path}"), home / "run")


PLACES = {  # (path, home folder) -> what opens the path
    "folder": lambda path, _: open_source(f"folder:{path}"),
    "npz": lambda path, _: open_source(f"npz:{path}"),
    "idx": lambda path, _: open_source(f"idx:{path}"),
    "inverted": lambda path, _: open_source(f"inverted:folder:{path}"),
    "paired": lambda path, _: open_source(f"paired:digits|folder:{path}"),
    "train.init_from": train_from,
    "eval.classifier": lambda path, _: open_feature_extractor(path, "x", (8, 8, 1)),
    "eval.scorer": lambda path, _: open_scorer(path, "x", None, None, "eval.scorer"),
    # TFDS itself reads buckets.
    "data.data_dir": lambda path, _: open_source("tfds:mnist", data_dir=path),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path, words", [("~/x", "{home}/x"), ("gs://x/y", "gs://x/y")])
def test_every_path_of_a_config(place, path, words, home):
    """Points 18 and 23: in every path that a config may name, ~ is expanded and a URL
    is refused."""
    if (place, path) == ("data.data_dir", "gs://x/y"):
        return
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        PLACES[place](path, home)
    assert words.format(home=home) in str(error.value)
    assert not (home / "run").exists()

"""Byte-pair encoding of a file by the three commands, and what a run keeps of it."""

import numpy as np
import pytest
from smoke import last_line, load

from diffusion_jax import run_config, runs
from diffusion_jax.data import vocabulary as vocabularies
from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
from diffusion_jax.training_loop import train

pytest.importorskip("tokenizers")
TEXT = "Größe: the cat sat on the mat, and that is that.\n" * 60


@pytest.fixture
def config(tmp_path):
    """The smoke run with 280 tokens on a small file."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    values = {"data__source": f"text:{path}", "data__vocabulary": "bpe"}
    config = load("python_docs_gru", **values, data__vocabulary_size=280)
    config.train.update(num_steps=2, sample_every=2)
    return config


def test_commands(config, tmp_path):
    """It trains, evaluates, and samples any prompt without the text it was trained on,
    even if that contains what the text did not."""
    workdir = tmp_path / "run"
    train(config, workdir)
    evaluate(config, workdir)
    assert last_line(workdir)["bits_per_character"] > 0
    assert last_line(workdir)["num_characters"] == len(TEXT) - int(len(TEXT) * 0.9)
    (tmp_path / "text.txt").unlink()
    config.sample.update(prompt="the ☃ ", num_examples=3)
    sample(config, workdir)
    with np.load(workdir / "sample.npz") as arrays:
        text = arrays["text"]
    stored = run_config.stored_fields(config, workdir)["tokens"].vocabulary
    assert stored == vocabularies.build("bpe", [TEXT[: int(len(TEXT) * 0.9)]], 280)
    assert len(stored) == 280 and stored.merges
    assert all(stored.decode(row).startswith("the ☃ ") for row in text)


def test_another_text_is_refused(config, tmp_path):
    """Resuming with a text that gives other merges is refused; with the same text the
    run goes on."""
    workdir = tmp_path / "run"
    train(config, workdir)
    config.train.num_steps = 3
    (tmp_path / "text.txt").write_text(TEXT.replace("that", "this"), encoding="utf-8")
    with pytest.raises(
        ValueError, match="vocabulary of text:.* is not that of the run"
    ):
        train(config, workdir)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    train(config, workdir)
    assert runs.load(config, workdir, "last").step == 3

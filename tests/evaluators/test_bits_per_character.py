"""Laws of bits per character: against a computation by hand."""

import collections
import math
import pathlib
import platform

import jax
import jax.numpy as jnp
import pytest
from smoke import load

from diffusion_jax import evaluators, methods, run_data
from diffusion_jax.evaluate import evaluate
from diffusion_jax.sample import sample
from diffusion_jax.training_loop import train

TEXT = "abcabcabacbabcab ñ" * 30


@pytest.fixture
def config(tmp_path):
    """The smoke run on a text of a few hundred characters."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    run_data.forget()
    return load("python_docs_gru", data__source=f"text:{path}", data__held_out=0.2)


def record_of(config):
    """The record of a model whose logits are all equal."""
    method = methods.make(config, run_data.open_train(config).fields)
    variables, _ = method.init(jax.random.key(0))
    variables = jax.tree.map(jnp.zeros_like, variables)
    evaluator = evaluators.make(config, method, pathlib.Path("nowhere"))
    (record,) = evaluator(variables)
    return record


@pytest.mark.parametrize("kind", ["characters", "bytes", "words"])
def test_by_hand(config, kind):
    """A uniform model has log2 V bits per token: of a text of N characters and M
    tokens (with one end) that is M log2(V) / N bits per character."""
    config.data.vocabulary = kind
    if kind == "words":
        path = config.data.source.removeprefix("text:")
        pathlib.Path(path).write_text(TEXT.replace("b", " b "), encoding="utf-8")
    method = methods.make(config, run_data.open_train(config).fields)
    text = pathlib.Path(config.data.source[5:]).read_text(encoding="utf-8")
    held_out = text[int(len(text) * 0.8) :]
    split = {"characters": list, "bytes": str.encode, "words": str.split}[kind]
    tokens = len(split(held_out)) + 1
    if kind == "words":
        held_out = " ".join(held_out.split()) + " "
    size = len(method.field.vocabulary)
    record = record_of(config)
    bits = tokens * math.log2(size) / len(held_out)
    assert record.metrics["bits_per_character"] == pytest.approx(bits, rel=1e-6)
    assert record.metrics["nats_per_token"] == pytest.approx(math.log(size), rel=1e-6)
    assert record.metrics["perplexity_per_token"] == pytest.approx(size, rel=1e-6)
    found = [record.settings[x] for x in ("split", "num_tokens", "num_characters")]
    assert found == ["test", tokens, len(held_out)]
    uniform = tokens * math.log2(size - 1) / len(held_out)  # it has no padding
    name = "bits_per_character, uniform"
    assert record.metrics[name] == pytest.approx(uniform, rel=1e-6)


def test_unigram_by_hand(config):
    """The unigram baseline counts the training split: with 6 different tokens among N,
    p = (count + 6 / (V - 1)) / (N + 6)."""
    record = record_of(config)
    cut = int(len(TEXT) * 0.8)
    counts = collections.Counter([*TEXT[:cut], "end"])
    different, total = len(counts), cut + 1
    assert different == 6
    p = {x: (n + different / 6) / (total + different) for x, n in counts.items()}
    bits = -sum(math.log2(p[x]) for x in [*TEXT[cut:], "end"])
    found = record.metrics["bits_per_character, unigram"]
    assert found == pytest.approx(bits / (len(TEXT) - cut), rel=1e-9)


def test_the_text_is_identified(config):
    """The hash belongs to the held-out text; python_docs also has Python's version."""
    hashes = {}
    path = pathlib.Path(config.data.source.removeprefix("text:"))
    for name, text in (("one", TEXT), ("other", TEXT[:-1] + "c")):
        path.write_text(text, encoding="utf-8")
        run_data.forget()
        for kind in ("characters", "bytes"):
            config.data.vocabulary = kind
            settings = record_of(config).settings
            hashes.setdefault(name, set()).add(settings["text"])
            assert "python" not in settings
    assert len(hashes["one"]) == len(hashes["other"]) == 1
    assert hashes["one"] != hashes["other"]
    settings = record_of(load("python_docs_gru")).settings
    assert settings["python"] == platform.python_version()


def test_refused(config, tmp_path):
    """Text that was trained on is no held-out text; nor may token ids mean something
    else than in training."""
    config.eval.split = "train"
    with pytest.raises(ValueError, match="eval.split 'train'.*needs held-out data"):
        record_of(config)
    config.eval.split = "test"
    config.train.update(num_steps=2, sample_every=0)
    train(config, tmp_path / "run")
    path = pathlib.Path(config.data.source.removeprefix("text:"))
    path.write_text(TEXT.replace("c", "d"), encoding="utf-8")
    config.sample.task = "nats"
    for command in (train, sample, evaluate):
        with pytest.raises(ValueError, match="different: 'c', 'd'.*restore the text"):
            command(config, tmp_path / "run")

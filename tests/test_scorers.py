"""Scorers of other models: which runs are accepted, and what an embedding is."""

import numpy as np
import pytest
from smoke import Compiled, load

from diffusion_jax import methods, run_config, run_data, runs, scorers, task_runner
from diffusion_jax.data import captions
from diffusion_jax.data.base import image_field
from diffusion_jax.training_loop import train

DIGITS = run_data.open_held_out(load("digits_contrastive")).fields


def write_run(folder, name="digits_contrastive", texts=None):
    """A run that is not trained yet; its captions have those words."""
    fields = dict(DIGITS)
    if texts:
        fields["caption"] = captions.caption_field(texts)
    folder.mkdir()
    run_config.write_config(load(name), fields, folder)
    return str(folder)


def open_scorer(workdir, image=DIGITS["image"], caption=DIGITS["caption"]):
    return scorers.open_scorer(workdir, "captions:x", image, caption, "eval.scorer")


def test_refusals(tmp_path):
    """No run, another family, another shape, unknown words: a sentence that names the
    key, before anything is compiled."""
    run = write_run(tmp_path / "run")
    other = write_run(tmp_path / "other", "digits_classifier")
    few = write_run(tmp_path / "few", texts=["a picture of the digit seven"])
    with Compiled() as names:
        for workdir, options, words in (
            (tmp_path / "nosuch", {}, "no scorer in eval.scorer = .*_contrastive.py"),
            (other, {}, "eval.scorer = .*other is a classifier, not a contrastive"),
            (
                run,
                {"image": image_field((16, 16, 3))},
                "trained on images of 8x8x1, but these are 16x16x3: set eval.scorer",
            ),
            (few, {}, "does not know 'an', 'eight', .* captions of captions:x: set"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=words):
                open_scorer(str(workdir), **options)
    assert not names


def test_embeddings_of_another_vocabulary(tmp_path):
    """Captions of another model are embedded as the same words of the scorer's own
    data."""
    config = load("digits_contrastive", train__num_steps=2)
    train(config, tmp_path)
    run = runs.load(config, tmp_path, "last")
    few = captions.caption_field(["the digit seven", "a two"])
    texts = ["a seven", "the digit two"]
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    scorer = open_scorer(str(tmp_path), caption=few)
    theirs = np.stack([captions.encode(few, text) for text in texts])
    found = scorers.embed(scorer, images, theirs)
    own = np.stack([captions.encode(DIGITS["caption"], text) for text in texts])
    expected = run.method.embed(run.variables, images, own)
    np.testing.assert_allclose(found[0], expected.image, atol=1e-5)
    np.testing.assert_allclose(found[1], expected.text, atol=1e-5)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_candidates": 3}, "num_candidates = 3 needs a scorer .*sample.scorer"),
        ({"scorer": "x"}, "num_candidates = 1: increase it, or leave sample.scorer"),
        (
            {"num_candidates": 3, "scorer": "x", "task": "img2img"},
            "sample.scorer has no effect on this task",
        ),
    ],
)
def test_both_options_are_needed(options, words):
    """One of the two options without the other, or for another task, is refused."""
    config = load("digits_captions")
    config.sample.update(options)
    method = methods.make(config, DIGITS)
    with pytest.raises(ValueError, match=words):
        task_runner.make(config, method, config.sample.task)

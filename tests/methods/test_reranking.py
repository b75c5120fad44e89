"""Laws of reranking: the best of several samples, whatever else is drawn."""

import dataclasses

import jax
import numpy as np
import pytest
from smoke import load

from diffusion_jax import methods, run_data
from diffusion_jax.data.base import image_field
from diffusion_jax.methods import reranking
from diffusion_jax.methods.base import Task
from diffusion_jax.models.contrastive import Embeddings
from diffusion_jax.prng import example_keys, uniform
from diffusion_jax.training.state import Variables

KEY, IMAGE = jax.random.key(4), image_field((2, 2, 1))


@dataclasses.dataclass(frozen=True)
class Brightness:
    """A scorer: the similarity is the mean of the image, times the caption's id."""

    def embed(self, variables, image, caption):
        mean = variables.params["net"] * image.mean(axis=(1, 2, 3))[:, None]
        return Embeddings(mean, caption[:, :1].astype(np.float32), 1.0)


def draw(variables, batch, key):
    """Uniform noise from -1 to 1."""
    keys = example_keys(key, batch["index"])
    return {"image": 2 * uniform(keys, IMAGE.shape) - 1, "caption": batch["caption"]}


TASK = Task(draw, ("caption",), {"image": IMAGE})
VARIABLES = reranking.with_scorer(
    Variables({"net": 0.0}, {}), Variables({"net": np.float32(1)}, {})
)
IDS = np.array([0, 1, 5, -5], np.int32)  # the word 3 is for dark pictures


def rows(task, index, words=2):
    captions = np.zeros((len(index), 3), np.int32)
    captions[:, 0] = words
    batch = {"index": np.array(index, np.int32), "caption": captions}
    return jax.device_get(jax.jit(task.run)(VARIABLES, batch, KEY))


def reranked(num):
    return reranking.rerank(TASK, "image", Brightness(), IDS, num)


@pytest.mark.parametrize("num", [2, 5])
def test_the_best_is_kept(num):
    """The score is the highest among the candidates, which are the samples of the
    candidates' keys; all outputs are those of the best one."""
    found = rows(reranked(num), range(6), words=[2, 2, 2, 3, 3, 3])
    every = []
    for key in reranking.candidate_keys(KEY, num):
        batch = {"index": np.arange(6), "caption": found["caption"]}
        every.append(np.asarray(draw(VARIABLES, batch, key)["image"]))
    means = np.stack(every).mean(axis=(2, 3, 4))
    best = np.append(means[:, :3].argmax(axis=0), means[:, 3:].argmin(axis=0))
    assert len(set(best)) > 1
    for i, j in enumerate(best):
        np.testing.assert_array_equal(found["image"][i], every[j][i])
    sign = np.repeat([5, -5], 3)
    np.testing.assert_allclose(found["score"], sign * means[best, range(6)], rtol=1e-5)
    assert reranked(num).outputs.keys() == {"image", "score"}


def test_one_candidate_is_the_sample():
    """The first candidate is what is drawn without reranking."""
    plain, one = rows(TASK, range(4)), rows(reranked(1), range(4))
    np.testing.assert_array_equal(one["image"], plain["image"])


def test_candidates_depend_on_their_example_and_number():
    """Not on the other examples, nor on how many candidates there are: with more of
    them the score never falls. No two candidates share a sample."""
    whole = rows(reranked(4), range(6))
    part = rows(reranked(4), [4, 2])
    np.testing.assert_array_equal(part["image"], whole["image"][[4, 2]])
    scores = [rows(reranked(n), range(6))["score"] for n in (1, 2, 4, 8)]
    assert np.all(np.diff(scores, axis=0) >= 0)
    keys = reranking.candidate_keys(KEY, 8)
    batch = {"index": np.arange(8), "caption": np.zeros((8, 3), np.int32)}
    drawn = np.stack([draw(VARIABLES, batch, key)["image"] for key in keys])
    assert len(np.unique(drawn.reshape(64, -1), axis=0)) == 64


def test_candidates_are_not_the_keys_of_examples():
    """A family derives an example's further keys from its own; those of a candidate's
    example differ from all of them."""
    numbers = np.arange(50)
    candidates = jax.vmap(lambda key: example_keys(key, numbers))(
        reranking.candidate_keys(KEY, 8)[1:]
    )
    own = example_keys(KEY, numbers)
    further = jax.vmap(lambda key: example_keys(key, numbers))(own)
    groups = (candidates, own, further)
    data = [np.asarray(jax.random.key_data(x)).reshape(-1, 2) for x in groups]
    together = np.concatenate(data)
    assert len(np.unique(together, axis=0)) == len(together)


def test_words_are_those_of_the_scorer():
    """A caption is scored with the ids that its words have in the scorer's data."""
    source = run_data.open_held_out(load("digits_contrastive"))
    method = methods.make(load("digits_contrastive"), source.fields)
    variables = method.init(KEY)[0]
    captions, size = source.read(np.arange(4))["caption"], source.fields["caption"].size
    moved = np.random.default_rng(0).permutation(np.arange(2, size))
    ids = np.append([0, 1], moved).astype(np.int32)
    theirs = np.argsort(ids).astype(np.int32)[captions]
    image = np.full((4, 8, 8, 1), 0.5, np.float32)
    task = Task(
        lambda variables, batch, key: {"image": image}, ("caption",), {"image": IMAGE}
    )
    task = reranking.rerank(task, "image", method, ids, 2)
    both = reranking.with_scorer(Variables({}, {}), variables)
    found = task.run(both, {"index": np.arange(4), "caption": theirs}, KEY)
    own = method.embed(variables, image, captions)
    expected = np.sum(own.image * own.text, axis=1)
    np.testing.assert_allclose(found["score"], expected, atol=1e-5)

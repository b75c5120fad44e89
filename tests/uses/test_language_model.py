"""A family of another kind of data needs one file and one row per table."""

import pathlib

import jax
import numpy as np
import pytest
import toy_language_model as toy

from diffusion_jax import methods, run_data
from diffusion_jax.data import sources
from diffusion_jax.sample import sample
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.step import make_train_step
from diffusion_jax.training_loop import train


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    """One row for the family, one for its data."""
    monkeypatch.setitem(methods.FAMILIES, "toy_lm", toy.FAMILY)
    monkeypatch.setitem(sources.SOURCES, "counting", (toy.open_counting, "counting"))


def test_it_fits_in_sixty_lines():
    """A small family, its defaults, task and data included, stays small."""
    assert len(pathlib.Path(toy.__file__).read_text().splitlines()) <= 60


def test_it_trains_and_continues_prompts(tmp_path):
    """The loop, checkpoints, tasks and writers know nothing of tokens: it learns to
    count, and continues the prompt of each held-out line, which stays as it is."""
    config = toy.defaults()
    config.train.update(num_steps=60, sample_every=60)
    config.data.batch_size, config.optim.learning_rate = 32, 0.1
    config.sample.update(num_examples=9, batch_size=4)
    train(config, tmp_path)
    sample(config, tmp_path)
    with np.load(tmp_path / "sample.npz") as file:
        tokens = file["tokens"]
    held_out = run_data.open_held_out(config).arrays["tokens"][:9]
    np.testing.assert_array_equal(tokens, held_out)
    lines = (tmp_path / "sample.txt").read_text().splitlines()
    assert lines == [" ".join(map(str, row)) for row in held_out]


def test_masked_loss_on_devices():
    """Lines of different length: the loss and update of 8 devices are those of one."""
    config = toy.defaults()
    method = methods.make(config, {"tokens": toy.TOKENS})
    state = jax.jit(lambda key: states.initial(method, key))(jax.random.key(0))
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, toy.VOCABULARY, (16, toy.LENGTH)).astype(np.int32)
    lengths = generator.integers(2, toy.LENGTH + 1, (16, 1))
    tokens[np.arange(toy.LENGTH)[None] >= lengths] = toy.PAD
    batch = {"index": np.arange(16, dtype=np.int32), "tokens": tokens}
    one, metrics = jax.jit(make_train_step(method, None))(state, batch)
    run = parallel.train_step_on_devices(make_train_step(method, parallel.AXIS))
    several, of_several = run(parallel.replicate(state), parallel.shard(batch), False)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(of_several[name], metrics[name], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        jax.device_get(several.params),
        jax.device_get(one.params),
    )


def test_a_uniform_model_loses_log_v():
    """With all logits equal the loss is log V, however many tokens are masked."""
    method = methods.make(toy.defaults(), {"tokens": toy.TOKENS})
    variables, aux = method.init(jax.random.key(0))
    variables = jax.tree.map(np.zeros_like, variables)
    tokens = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 1, 2, 3]], np.int32)
    batch = {"index": np.arange(2), "tokens": tokens}
    loss = method.loss("net", variables, aux, batch, jax.random.key(1), 0)
    np.testing.assert_allclose(loss.value, np.log(toy.VOCABULARY), rtol=1e-6)
    assert loss.weight == 7

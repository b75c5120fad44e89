"""Laws of DALL-E: its sequences, its loss, its samples, and its frozen first stage."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoke import load, restore

from diffusion_jax import inference, methods, run_config, run_data, runs
from diffusion_jax.data.base import ArraySource
from diffusion_jax.methods import dalle
from diffusion_jax.special_tokens import END, PAD
from diffusion_jax.training.state import Variables
from diffusion_jax.training_loop import train


@pytest.fixture(scope="module")
def source():
    """Digits with captions."""
    return run_data.open_train(load("digits_dalle"))


@pytest.fixture(scope="module")
def method(source):
    """Half of the captions are dropped in training; no dropout."""
    config = load("digits_dalle", model__dropout=0.0, dalle__cond_dropout=0.5)
    return methods.make(config, source.fields)


@pytest.fixture(scope="module")
def variables(method):
    """Random ones, large enough for all tokens to differ."""
    found, _ = method.init(jax.random.key(1))
    params = jax.tree.map(lambda x: 3 * x, found.params["net"])
    return found._replace(params=found.params | {"net": params})


def batch_of(source, size, first=0):
    index = np.arange(first, first + size)
    batch = {"index": index.astype(np.int32)} | source.read(index)
    return batch | {"image": batch["image"] / np.float32(127.5) - 1}


def sampled(method, variables, captions, seed=0, first=0, **changes):
    """Images of captions, with the indices first, first + 1, ..."""
    options = dict(temperature=1.0, top_k=0, top_p=1.0, guidance_scale=1.0) | changes
    task = dalle.make_sample(method, dalle.SampleOptions(**options))
    index = jnp.arange(first, first + len(captions))
    batch = {"index": index, "caption": jnp.asarray(captions)}
    return jax.jit(task.run)(variables, batch, jax.random.key(seed))["image"]


def test_sequences(method, source):
    """END, the words, a padding token for each empty position, and the codes; no two
    kinds share an id, and every position allows the kind of its next token."""
    caption = source.read(np.arange(3))["caption"]
    codes = np.arange(3 * method.num_codes).reshape(3, -1) % 8
    tokens = np.asarray(method.tokens(caption, codes))
    length = method.num_text
    assert tokens.shape == (3, 1 + length + method.num_codes)
    assert np.all(tokens[:, 0] == END)
    text, image = np.split(tokens[:, 1:], [length], axis=1)
    np.testing.assert_array_equal(text[caption != PAD], caption[caption != PAD])
    pads = np.broadcast_to(method.num_words + np.arange(length), caption.shape)
    np.testing.assert_array_equal(text[caption == PAD], pads[caption == PAD])
    np.testing.assert_array_equal(image, codes + method.num_words + length)
    allowed = method.allowed()
    for row in tokens:
        assert np.all(allowed[np.arange(len(row) - 1), row[1:]])
    assert allowed.sum() == length * (method.num_words + length) + codes[0].size * 8


class Uniform(nn.Module):
    """All logits are equal."""

    size: int

    @nn.compact
    def __call__(self, tokens, segment=None, index=None):
        scale = self.param("scale", nn.initializers.ones, ())
        return jnp.zeros((*tokens.shape, self.size)) * scale


def test_loss_of_a_uniform_model(method, source):
    """A word costs log(V + L), a code log K; the text has an eighth of the weight."""
    size = method.allowed().shape[1]
    uniform = dataclasses.replace(method, network=Uniform(size), cond_dropout=0.0)
    variables, aux = uniform.init(jax.random.key(0))
    batch = batch_of(source, 4)
    found = uniform.loss("net", variables, aux, batch, jax.random.key(0), 0)
    text, image = np.log(method.num_words + method.num_text), np.log(8)
    np.testing.assert_allclose(found.metrics["text"], text, rtol=1e-6)
    np.testing.assert_allclose(found.metrics["image"], image, rtol=1e-6)
    np.testing.assert_allclose(found.value, text / 8 + 7 * image / 8, rtol=1e-6)
    nats = dalle.make_token_nats(uniform, None).run(variables, batch, None)
    words = np.sum(batch["caption"] != PAD, axis=1)
    np.testing.assert_allclose(nats["text_nats"], words * text, rtol=1e-6)
    np.testing.assert_allclose(nats["image_nats"], method.num_codes * image, rtol=1e-6)


def test_only_the_transformer_has_gradients(method, variables, source):
    """The first stage is frozen: no gradient reaches it; no padding is predicted."""
    batch = batch_of(source, 4)

    def loss(params):
        found = Variables(params, variables.state)
        return method.loss("net", found, (), batch, jax.random.key(0), 0).value

    grads = jax.jit(jax.grad(loss))(variables.params)
    assert all(np.all(x == 0) for x in jax.tree.leaves(grads["dvae"]))
    assert any(np.any(x != 0) for x in jax.tree.leaves(grads["net"]))


def test_steps_give_what_the_whole_sequence_gives(method, variables, source):
    """Cached decoding of a caption and codes has the logits of the whole network."""
    batch = batch_of(source, 2)
    tokens = method.tokens(batch["caption"], method.codes(variables, batch["image"]))
    whole = method.apply(variables, tokens[:, :-1])
    whole = np.where(method.allowed()[None], whole, -np.inf)
    decoder = method.decoder(variables, batch["caption"])
    step, cache = jax.jit(decoder.step), decoder.init()
    for position in range(tokens.shape[1] - 1):
        logits, cache = step(cache, tokens[:, position], jnp.asarray(position))
        np.testing.assert_allclose(logits, whole[:, position], atol=1e-4)


def test_a_sample_depends_on_its_caption_and_index(method, variables, source):
    """Not on the rest of the batch; without a caption all prompts are the same."""
    captions = source.read(np.arange(4))["caption"]
    together = sampled(method, variables, captions)
    alone = sampled(method, variables, captions[2:3], first=2)
    np.testing.assert_allclose(alone[0], together[2], atol=1e-5)
    assert together.shape == (4, *method.field.shape)
    none = np.zeros_like(captions)
    prompts = method.prompt(none)
    assert np.all(prompts[:1] == prompts)


def test_guidance(method, variables, source):
    """Scale 0 is the model without captions, whatever the caption; a model that never
    trained without captions is refused."""
    captions = source.read(np.arange(3))["caption"]
    unguided = sampled(method, variables, np.zeros_like(captions))
    np.testing.assert_allclose(
        sampled(method, variables, captions, guidance_scale=0.0), unguided, atol=1e-5
    )
    strong = sampled(method, variables, captions, guidance_scale=8.0)
    assert np.abs(strong - sampled(method, variables, captions)).max() > 0.01
    never = dataclasses.replace(method, cond_dropout=0.0)
    with pytest.raises(
        ValueError, match="guidance_scale = 2.0 needs a model that was also"
    ):
        sampled(never, variables, captions, guidance_scale=2.0)


def test_samples_of_a_greedy_model_are_most_likely(method, variables, source):
    """Temperature 0 draws the code of the highest logit at every position."""
    caption = source.read(np.arange(1))["caption"]
    image = sampled(method, variables, caption, temperature=0.0)
    tokens = np.asarray(method.prompt(caption))
    for _ in range(method.num_codes):
        rest = 1 + method.num_text + method.num_codes - tokens.shape[1]
        whole = np.pad(tokens, ((0, 0), (0, rest)))[:, :-1]
        position = tokens.shape[1] - 1
        logits = np.asarray(method.apply(variables, whole))[:, position]
        logits = np.where(method.allowed()[position], logits, -np.inf)
        tokens = np.append(tokens, logits.argmax(axis=1)[:, None], axis=1)
    codes = tokens[:, -method.num_codes :] - method.num_words - method.num_text
    codes = jnp.asarray(codes.reshape(1, *method.dvae.network.grid))
    first_stage = method.dvae
    expected = first_stage.likelihood.mean(
        first_stage.apply(variables, codes, method="decode")
    )
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_the_first_stage_is_copied_and_frozen(tmp_path):
    """Groups of the dVAE's run lie in the checkpoint and never change; that checkpoint
    alone draws."""
    first, second = tmp_path / "dvae", tmp_path / "dalle"
    train(load("digits_dvae"), first)
    config = load("digits_dalle", train__init_from=f"dvae={first}")
    config.sample.update(num_examples=4, prompt="a seven|the digit two")
    train(config, second)
    averaged = restore(load("digits_dvae"), first).averaged
    for step in (2, 4):
        state = restore(config, second, step)
        for params in (state.params, state.ema):
            chex.assert_trees_all_equal(params["dvae"], averaged.params["dvae"])
        chex.assert_trees_all_equal(state.model_state["dvae"], averaged.state["dvae"])
    (first / "config.json").rename(first / "gone")
    run = runs.load(config, second, "last")
    task = methods.make_task(config, run.method, "sample")
    rows = task.prompts["caption"]("a seven|the digit two")
    fields = run_config.stored_fields(config, second)
    source = ArraySource({"caption": rows}, {"caption": fields["caption"]})
    (found,) = inference.make_stream(task, 8, 0)(run.variables, source, 2)
    assert found["image"].shape == (2, 8, 8, 1) and np.all(np.isfinite(found["image"]))


@pytest.mark.parametrize(
    "prompt, sentence",
    [
        ("a heptagon", "sample.prompt contains 'heptagon'"),
        ("a seven|", "sample.prompt is empty"),
        ("a a a a a a seven", "sample.prompt has 7 words"),
    ],
)
def test_prompts_are_checked(method, prompt, sentence):
    """An unknown word, an empty prompt and one that is too long, before compiling."""
    task = dalle.make_sample(method, dalle.SampleOptions(1.0, 0, 1.0, 1.0))
    with pytest.raises(ValueError, match=sentence):
        task.prompts["caption"](prompt)


def test_data_without_captions():
    """It is said which data have some."""
    config = load("digits_dalle", data__source="digits")
    with pytest.raises(ValueError, match="digits has no captions.* captions:digits"):
        methods.make(config, run_data.open_train(config).fields)

"""Laws of the contrastive family: embeddings, loss, and the temperature's limit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from smoke import load

from diffusion_jax import methods, run_data
from diffusion_jax.training.state import Variables
from diffusion_jax.training.step import check_batch

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def source():
    """Digits with captions."""
    return run_data.open_train(load("digits_contrastive"))


@pytest.fixture(scope="module")
def method(source):
    """On one device."""
    made = methods.make(load("digits_contrastive"), source.fields)
    return dataclasses.replace(made, axis=None)


@pytest.fixture(scope="module")
def variables(method):
    return method.init(KEY)[0]


def batch_of(source, size):
    index = np.arange(size)
    batch = {"index": index.astype(np.int32)} | source.read(index)
    return batch | {"image": batch["image"] / np.float32(127.5) - 1}


def loss_of(method, variables, batch):
    return method.loss("net", variables, (), batch, KEY, jnp.int32(0))


def with_log_scale(variables, value):
    net = variables.params["net"] | {"log_scale": jnp.float32(value)}
    return Variables({"net": net}, {})


def test_embeddings(method, variables, source):
    """Norm 1; a row depends on its own picture and caption, not on padding."""
    batch = batch_of(source, 6)
    task = methods.make_task(load("digits_contrastive"), method, "embed")
    found = task.run(variables, batch, KEY)
    for name, x in found.items():
        assert x.shape == (6, *task.outputs[name].shape)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-4)
    alone = {name: x[2:3] for name, x in batch.items()}
    alone["caption"] = np.pad(alone["caption"], ((0, 0), (0, 3)))
    for name, x in task.run(variables, alone, KEY).items():
        np.testing.assert_allclose(x[0], found[name][2], atol=1e-5)


def test_loss_by_other_means(method, variables, source):
    """The pictures are a choice among the captions of the batch, and the reverse: for
    different captions the mean of Optax's cross-entropy of both directions."""
    batch = batch_of(source, 40)
    _, first = np.unique(batch["caption"], axis=0, return_index=True)
    batch = {name: x[first] for name, x in batch.items()}
    image, text, scale = method.embed(variables, batch["image"], batch["caption"])
    assert scale == pytest.approx(1 / 0.07, rel=1e-5)
    logits, labels = scale * image @ text.T, np.arange(len(first))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    ways = [cross_entropy(x, labels).mean() for x in (logits, logits.T)]
    loss = loss_of(method, variables, batch)
    assert loss.value == pytest.approx(np.mean(ways), rel=1e-5)
    names = loss.metrics["image_to_text"], loss.metrics["text_to_image"]
    np.testing.assert_allclose(names, ways, rtol=1e-5)


def test_equal_captions_are_no_negatives(method, variables, source):
    """A batch that is repeated has the loss of the batch, plus log 2."""
    batch = batch_of(source, 8)
    twice = {name: np.concatenate([x, x]) for name, x in batch.items()}
    one, two = (loss_of(method, variables, x).value for x in (batch, twice))
    assert two == pytest.approx(float(one) + np.log(2), rel=1e-5)


def test_scale_is_limited(method, variables, source):
    """It is at most 100, and beyond the limit the gradient can lower it again."""
    batch = batch_of(source, 8)

    def loss(log_scale):
        return loss_of(method, with_log_scale(variables, log_scale), batch).value

    image = batch["image"], batch["caption"]
    for value in (-1.0, 4.6, 6.0):
        scale = method.embed(with_log_scale(variables, value), *image).scale
        assert scale == pytest.approx(min(np.exp(value), 100), rel=1e-4)
    values = [loss(x) for x in (np.log(100), 6.0)]
    slopes = [jax.grad(loss)(x) for x in (np.log(100), 6.0)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-3)
    assert abs(slopes[0]) > 0.1


@pytest.mark.parametrize("size, channels", [(32, 3), (64, 3), (24, 1)])
def test_shapes(size, channels, source):
    """Pictures of other sizes and with colours are embedded as well."""
    config = load("digits_contrastive", model__channels=(4, 4, 4))
    image = source.fields["image"]._replace(shape=(size, size, channels))
    method = methods.make(config, source.fields | {"image": image})
    found, _ = jax.eval_shape(method.init, KEY)
    out = jax.eval_shape(
        method.embed,
        found,
        jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32),
        jax.ShapeDtypeStruct((2, 5), jnp.int32),
    )
    assert out.image.shape == out.text.shape == (2, 8)


def test_refusals(method):
    """Data without captions, and slices of a batch, whose loss is not a mean of
    theirs."""
    config = load("digits_contrastive", data__source="digits")
    with pytest.raises(ValueError, match="digits has no captions.* captions:digits"):
        methods.make(config, run_data.open_train(config).fields)
    check_batch(method, 16, 1)
    with pytest.raises(ValueError, match="couples all examples.* contrastive losses"):
        check_batch(method, 16, 2)

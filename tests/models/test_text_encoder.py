"""Laws of the encoder of captions, and of the U-Net that is conditioned on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_unet import SMALL, example

from diffusion_jax.models.text_encoder import TextEncoder
from diffusion_jax.models.unet import UNet
from diffusion_jax.special_tokens import END, PAD

VOCABULARY, LENGTH = 9, 5
ENCODER = TextEncoder(VOCABULARY, num_layers=2, num_heads=2, width=8, dropout=0.0)
NET = UNet(
    **SMALL,
    caption_width=8,
    caption_layers=1,
    caption_heads=2,
    vocabulary_size=VOCABULARY,
)
CAPTIONS = np.array([[2, 3, END, PAD, PAD], [4, 5, 6, 7, END], [PAD] * 5], np.int32)


def randomised(params):
    """Without the zeros of a fresh network, which would hide mistakes."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(0, 0.3, x.shape).astype(np.float32) for x in leaves]
    return {"params": jax.tree.unflatten(structure, drawn)}


@pytest.fixture(scope="module")
def encoder():
    """f(captions) of the encoder with random weights."""
    shapes = jax.eval_shape(ENCODER.init, jax.random.key(0), CAPTIONS)["params"]
    return jax.jit(lambda x: ENCODER.apply(randomised(shapes), x))


@pytest.fixture(scope="module")
def network():
    """f(x, t, captions) of the U-Net with random weights."""
    x, t = example(3, 8)
    cond = {"caption": CAPTIONS}
    shapes = jax.eval_shape(NET.init, jax.random.key(0), x, t, cond)["params"]
    params = randomised(shapes)
    return jax.jit(
        lambda x, t, captions: NET.apply(params, x, t, {"caption": captions})
    )


def test_padding_and_the_rest_of_a_batch_change_nothing(encoder):
    """More padding, or other captions in the batch, give the same encoding."""
    first = encoder(CAPTIONS[:1])
    longer = encoder(np.pad(CAPTIONS[:1], ((0, 0), (0, 3))))
    batch = encoder(CAPTIONS)
    tokens = slice(0, 3)
    for other in (longer, batch):
        np.testing.assert_allclose(other.pooled[0], first.pooled[0], atol=1e-5)
        np.testing.assert_allclose(
            other.tokens[0, tokens], first.tokens[0, tokens], atol=1e-5
        )
    np.testing.assert_array_equal(batch.mask[:2, 0, 0], CAPTIONS[:2] != PAD)


def test_pooled_is_the_mean_of_the_tokens(encoder):
    """Of those that are no padding."""
    found = encoder(CAPTIONS)
    for row, pooled, caption in zip(*found[:2], CAPTIONS, strict=True):
        tokens = row[caption != PAD] if np.any(caption) else row
        np.testing.assert_allclose(pooled, np.mean(tokens, axis=0), atol=1e-5)


def test_word_order_matters(encoder):
    """The encoder knows positions: "a b" is not "b a"."""
    swapped = CAPTIONS[:1][:, [1, 0, 2, 3, 4]]
    difference = encoder(CAPTIONS[:1]).pooled - encoder(swapped).pooled
    assert np.abs(difference).max() > 1e-3


def test_an_image_depends_on_its_own_caption_only(network):
    """Changing the first caption changes the first image and no other; longer padding
    changes none."""
    x, t = example(3, 8)
    plain = network(x, t, CAPTIONS)
    changed = CAPTIONS.copy()
    changed[0, 1] = 8
    found = network(x, t, changed)
    assert np.abs(found[0] - plain[0]).max() > 1e-3
    np.testing.assert_array_equal(found[1:], plain[1:])
    padded = network(x[:2], t[:2], np.pad(CAPTIONS[:2], ((0, 0), (0, 4))))
    np.testing.assert_allclose(padded, plain[:2], atol=2e-5)


def test_gradients_reach_the_captions():
    """Words of captions are trained: only those that occur, and all layers."""
    x, t = example(2, 8)
    cond = {"caption": CAPTIONS[:2]}
    shapes = jax.eval_shape(NET.init, jax.random.key(0), x, t, cond)["params"]
    params = randomised(shapes)

    def loss(params):
        return jnp.sum(jnp.square(NET.apply(params, x, t, cond)))

    grads = jax.jit(jax.grad(loss))(params)["params"]["caption"]
    moved = np.abs(grads["Embed_0"]["embedding"]).max(axis=1) > 0
    ids = np.arange(VOCABULARY)
    np.testing.assert_array_equal(moved, np.isin(ids, CAPTIONS[:2]) & (ids != PAD))

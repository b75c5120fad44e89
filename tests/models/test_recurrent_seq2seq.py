"""Laws of encoders and decoders: causality, caches, padding, attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.seq2seq import ATTENTIONS, Memory, RecurrentSeq2Seq, attend

PAD = 0
NETWORKS = {
    f"{cell}_{attention}_{layers}": functools.partial(
        RecurrentSeq2Seq,
        cell=cell,
        num_layers=layers,
        width=8,
        attention=attention,
        dropout=0.0,
    )
    for cell, layers in (("gru", 1), ("lstm", 2))
    for attention in ATTENTIONS
}
WITH_ATTENTION = [name for name in NETWORKS if "none" not in name]
SOURCE = np.array([[3, 4, 5, 1, PAD], [6, 2, 1, PAD, PAD], [2, 3, 4, 5, 1]])
TARGET = np.array([[1, 4, 3, 2], [1, 3, 4, 3], [1, 2, 3, 4]])
each_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def model(name, **options):
    """A network with random parameters, as a function (method, *arguments)."""
    network = NETWORKS[name](source_vocabulary_size=7, vocabulary_size=5, **options)
    params = network.init(jax.random.key(0), jnp.ones((1, 2), int), TARGET[:1])
    # Larger weights make every dependence visible.
    params = jax.tree.map(
        lambda x: 2 * x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params
    )

    @functools.partial(jax.jit, static_argnums=0)
    def call(method, *args, **rngs):
        return network.apply(params, *args, method=method, rngs=rngs)

    return call


@each_network
def test_future_does_not_move_the_past(name):
    """Causality: logits at t depend on target tokens up to t only, and on all these."""
    call = model(name)
    logits = call("__call__", SOURCE, TARGET)
    for t in range(4):
        changed = TARGET.copy()
        changed[:, t] = 2 + (TARGET[:, t] - 1) % 3
        found = call("__call__", SOURCE, changed)
        np.testing.assert_array_equal(found[:, :t], logits[:, :t])
        assert np.all(np.any(found[:, t:] != logits[:, t:], axis=-1))


@each_network
def test_every_token_of_the_source_counts(name):
    """The first logits depend on each token of the source that is no padding."""
    call = model(name)
    logits = call("__call__", SOURCE, TARGET)
    for s in range(5):
        changed = np.where(np.arange(5) == s, 2 + (SOURCE + 1) % 5, SOURCE)
        changed = np.where(SOURCE == PAD, PAD, changed)
        found = call("__call__", changed, TARGET)[:, 0]
        moved = np.any(found != logits[:, 0], axis=-1)
        np.testing.assert_array_equal(moved, SOURCE[:, s] != PAD)


@each_network
def test_cached_is_uncached(name):
    """One token after the other over a cache gives the logits of the whole target."""
    call = model(name)
    expected = call("__call__", SOURCE, TARGET)
    cache = call("init_cache", call("encode", SOURCE), 4)
    for t in range(4):
        logits, cache = call("step", cache, TARGET[:, t], t)
        np.testing.assert_allclose(logits, expected[:, t], rtol=1e-5, atol=1e-5)


@each_network
def test_padding_and_batch_mates_change_nothing(name):
    """An example's logits are those it has without padding and without others."""
    call = model(name)
    logits = call("__call__", np.pad(SOURCE, ((0, 0), (0, 3))), TARGET)
    for i, source in enumerate(SOURCE):
        expected = call("__call__", source[None, source != PAD], TARGET[i : i + 1])
        np.testing.assert_allclose(logits[i], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_attention_is_a_distribution_over_the_source(name):
    """Weights are at least 0, sum to 1 for each token, and are 0 on padding; row t
    depends on targets up to t only."""
    call = model(name)
    weights = call("alignment", SOURCE, TARGET)
    assert weights.shape == (3, 1, 4, 5) and weights.dtype == jnp.float32
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    padded = np.broadcast_to((SOURCE == PAD)[:, None, None], weights.shape)
    assert np.all(weights[padded] == 0)
    changed = TARGET.copy()
    changed[:, 3] = 2
    found = call("alignment", SOURCE, changed)
    np.testing.assert_array_equal(found[:, :, :3], weights[:, :, :3])


def test_without_attention_there_is_no_alignment():
    """It is refused in a sentence that names the key."""
    with pytest.raises(ValueError, match="model.attention 'none' has no alignment"):
        model("gru_none_1")("alignment", SOURCE, TARGET)


@pytest.mark.parametrize("key, value", [("attention", "dot"), ("cell", "rnn")])
def test_unknown_names(key, value):
    """An unknown name is refused with the known ones."""
    with pytest.raises(ValueError, match=f"(?i)model.{key} '{value}'"):
        network = NETWORKS["gru_none_1"](
            source_vocabulary_size=7, vocabulary_size=5, **{key: value}
        )
        network.init(jax.random.key(0), SOURCE, TARGET)


def test_attend():
    """With equal scores the context is the plain mean over what is not padded; the
    order of the memory changes nothing."""
    values = jax.random.normal(jax.random.key(1), (2, 4, 3))
    mask = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    memory = Memory(values, values, mask)
    context, _ = attend(jnp.full((2, 4), 7.0), memory)
    expected = [values[0].mean(axis=0), values[1, :2].mean(axis=0)]
    np.testing.assert_allclose(context, np.stack(expected), rtol=1e-6)
    scores = jax.random.normal(jax.random.key(2), (2, 4))
    order = jnp.array([2, 0, 3, 1])
    swapped = Memory(values[:, order], values[:, order], mask[:, order])
    found, weights = attend(scores[:, order], swapped)
    context, expected = attend(scores, memory)
    np.testing.assert_allclose(found, context, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights, expected[:, order], rtol=1e-6)


def test_dropout_depends_on_the_index_only():
    """An example's mask follows its global index, not its place; without an index there
    is none."""
    call = model("lstm_additive_2", dropout=0.5)
    key, index = jax.random.key(3), jnp.array([5, 6, 7])
    logits = call("__call__", SOURCE, TARGET, index, dropout=key)
    order = np.array([2, 0, 1])
    found = call("__call__", SOURCE[order], TARGET[order], index[order], dropout=key)
    np.testing.assert_allclose(found, logits[order], rtol=1e-5, atol=1e-6)
    other = call("__call__", SOURCE, TARGET, index + 1, dropout=key)
    assert not np.allclose(other, logits)
    plain = model("lstm_additive_2")("__call__", SOURCE, TARGET)
    np.testing.assert_array_equal(call("__call__", SOURCE, TARGET), plain)


@each_network
def test_bfloat16(name):
    """In bfloat16, logits are float32, finite and near those of float32."""
    logits = model(name, dtype=jnp.bfloat16)("__call__", SOURCE, TARGET)
    assert logits.dtype == jnp.float32
    expected = model(name)("__call__", SOURCE, TARGET)
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()

"""Laws of networks of tokens: causality, caches, padding, packing, dropout."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models import positions
from diffusion_jax.models.recurrent import RecurrentLM
from diffusion_jax.models.transformer import GPT, MultiHeadAttention, Transformer

V, CONTEXT = 11, 8
LANGUAGE_MODELS = {
    "lstm": functools.partial(RecurrentLM, V, "lstm", 2, 8, False),
    "gru": functools.partial(RecurrentLM, V, "gru", 1, 8, True),
    "learned": functools.partial(GPT, V, CONTEXT, 2, 2, 8, "learned"),
    "rotary": functools.partial(GPT, V, CONTEXT, 2, 2, 8, "rotary"),
}
each_model = pytest.mark.parametrize("name", LANGUAGE_MODELS)


def tokens_of(*shape, seed=0, size=V):
    """Random tokens without padding."""
    return np.random.default_rng(seed).integers(1, size, shape).astype(np.int32)


def large(variables):
    """Weights that are not near zero, so that everything matters."""
    leaves, tree = jax.tree.flatten(variables)
    draws = np.random.default_rng(0)
    leaves = [x + 0.4 * draws.normal(size=x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(tree, leaves)


@functools.cache
def language_model(name):
    """A language model, its variables, and (tokens, segment) -> logits."""
    network = LANGUAGE_MODELS[name](0.0)
    variables = large(jax.jit(network.init)(jax.random.key(0), tokens_of(1, 2)))
    return network, variables, jax.jit(functools.partial(network.apply, variables))


@functools.cache
def seq2seq(source_size=9):
    """A Transformer, its variables, and (source, target) -> logits."""
    network = Transformer(V, source_size, 2, 2, 8, 12, 0.0)
    inputs = tokens_of(1, 2), tokens_of(1, 2)
    variables = large(jax.jit(network.init)(jax.random.key(0), *inputs))
    return network, variables, jax.jit(functools.partial(network.apply, variables))


def sources():
    """Sources of different lengths."""
    source = tokens_of(3, 6, seed=1, size=9)
    source[1, 4:], source[2, 1:] = 0, 0
    return source


def check_causal(apply, tokens):
    """No logits change where later tokens do, and some change where they do."""
    before = apply(tokens)
    for t in range(1, tokens.shape[1]):
        changed = tokens.copy()
        changed[:, t:] = 1 + changed[:, t:] % (V - 1)
        after = apply(changed)
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.all(np.any(after[:, t:] != before[:, t:], axis=-1))


@each_model
def test_the_past_does_not_see_the_future(name):
    """Changing tokens never moves the logits before them."""
    check_causal(language_model(name)[2], tokens_of(3, CONTEXT))


def test_the_past_of_a_target_does_not_see_its_future():
    """The same holds for a target; of the source, every token matters."""
    apply = seq2seq()[2]
    check_causal(lambda target: apply(sources(), target), tokens_of(3, CONTEXT))
    source, target = tokens_of(1, 6, size=9), tokens_of(1, 4)
    before = apply(source, target)
    for s in range(6):
        changed = source.copy()
        changed[:, s] = 1 + changed[:, s] % 8
        assert np.all(np.any(apply(changed, target) != before, axis=-1))


def check_cached(network, variables, cache, tokens, expected):
    """One token after the other gives the logits of all at once; what a cache holds
    after a position does not matter."""
    step = jax.jit(functools.partial(network.apply, variables, method="step"))
    for i in range(tokens.shape[1]):
        logits, cache = step(cache, tokens[:, i], jnp.int32(i))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:, i], rtol=1e-4, atol=1e-5)


@each_model
def test_cached_is_uncached(name):
    """Decoding with the cache gives the logits of the whole text."""
    network, variables, apply = language_model(name)
    tokens = tokens_of(3, CONTEXT)
    cache = network.apply(variables, 3, method="init_cache")
    if not name.endswith(("lstm", "gru")):
        cache = jax.tree.map(lambda x: x + 7, cache)  # never read
    check_cached(network, variables, cache, tokens, apply(tokens))


@pytest.mark.parametrize("length", [5, 9])
def test_cached_target_is_uncached(length):
    """The same holds for a target, whatever the length of the cache."""
    network, variables, apply = seq2seq()
    target = tokens_of(3, 5)
    memory = network.apply(variables, sources(), method="encode")
    cache = network.apply(variables, memory, length, method="init_cache")
    cache = cache._replace(target=jax.tree.map(lambda x: x + 7, cache.target))
    check_cached(network, variables, cache, target, apply(sources(), target))


@each_model
def test_examples_are_independent(name):
    """An example's logits do not depend on the others in its batch, nor on padding."""
    apply, tokens = language_model(name)[2], tokens_of(3, CONTEXT)
    together = apply(tokens)
    one = apply(tokens[1:2, :5])
    np.testing.assert_allclose(together[1:2, :5], one, rtol=1e-4, atol=1e-5)


def test_pairs_are_independent():
    """The same holds for pairs, and for padding of the source."""
    apply, target = seq2seq()[2], tokens_of(3, 5)
    together = apply(np.pad(sources(), ((0, 0), (0, 3))), target)
    for i, length in enumerate((6, 4, 1)):
        one = apply(sources()[i : i + 1, :length], target[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], one, rtol=1e-4, atol=1e-5)


@each_model
@hypothesis.given(st.lists(st.integers(1, CONTEXT), min_size=1, max_size=3))
@hypothesis.settings(max_examples=8, deadline=None)
def test_packed_is_separate(name, lengths):
    """Documents in one example have the logits that they have by themselves."""
    apply = language_model(name)[2]
    tokens, segment = np.zeros((2, 2, CONTEXT), np.int32)
    pieces, start = [], 0
    for number, length in enumerate(lengths, 1):
        length = min(length, CONTEXT - start)
        here = slice(start, start + length)
        alone = np.zeros((2, CONTEXT), np.int32)
        alone[:, :length] = tokens_of(2, length, seed=number)
        tokens[:, here], segment[:, here] = alone[:, :length], number
        pieces.append((here, apply(alone)[:, :length]))
        start = here.stop
    packed = apply(tokens, segment)
    assert np.all(np.isfinite(packed))
    for here, alone in pieces:
        np.testing.assert_allclose(packed[:, here], alone, rtol=1e-4, atol=1e-5)


@hypothesis.given(st.lists(st.integers(1, 5), max_size=5))
@hypothesis.settings(max_examples=20, deadline=None)
def test_positions_restart(lengths):
    """Positions count from 0 in each document."""
    lengths = [*lengths, 30 - sum(lengths)]
    segment = np.repeat(np.arange(len(lengths)), lengths)[None]
    expected = np.concatenate([np.arange(n) for n in lengths])[None]
    np.testing.assert_array_equal(
        positions.segment_positions(jnp.asarray(segment)), expected
    )


@hypothesis.given(*(st.integers(0, 500) for _ in range(3)))
@hypothesis.settings(max_examples=20, deadline=None)
def test_rotary_products_depend_on_distances(p, q, shift):
    """Shifting both positions does not change the product of a query and a key, and a
    rotation changes no norm."""
    x, y = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 6)).astype(np.float32)

    def product(p, q):
        at = (jnp.array([[i]]) for i in (p, q))
        a, b = (positions.rotate(*pair) for pair in zip((x, y), at, strict=True))
        np.testing.assert_allclose(jnp.linalg.norm(a), np.linalg.norm(x), rtol=1e-5)
        return jnp.sum(a * b)

    moved = product(p + shift, q + shift)
    np.testing.assert_allclose(moved, product(p, q), rtol=1e-3, atol=1e-3)


def networks():
    """Every network with dropout, its inputs, and whether they are a pair."""
    rows = {name: (make, (tokens_of(4, 6),)) for name, make in LANGUAGE_MODELS.items()}
    transformer = functools.partial(Transformer, V, None, 1, 2, 8, 12)
    return rows | {"transformer": (transformer, (tokens_of(4, 5), tokens_of(4, 6)))}


@pytest.mark.parametrize("name", [*LANGUAGE_MODELS, "transformer"])
def test_dropout_depends_on_the_index(name):
    """What is dropped of an example depends on its index, wherever it lies in a batch,
    on nothing else, and differs between examples; without an index nothing is."""
    make, inputs = networks()[name]
    network = make(0.5)
    variables = large(jax.jit(network.init)(jax.random.key(0), *inputs))
    same = tuple(np.broadcast_to(x[:1], x.shape) for x in inputs)
    rngs = {"dropout": jax.random.key(3)}

    @jax.jit
    def apply(index, *inputs):
        return network.apply(variables, *inputs, index=index, rngs=rngs)

    index = np.array([3, 8, 5, 4], np.int32)
    found = apply(index, *same)
    np.testing.assert_allclose(apply(index[::-1], *same)[::-1], found, rtol=1e-5)
    assert len(np.unique(np.asarray(found).reshape(4, -1), axis=0)) == 4
    without = jax.jit(network.apply)(variables, *inputs)
    expected = jax.jit(make(0.0).apply)(variables, *inputs)
    np.testing.assert_array_equal(without, expected)


@pytest.mark.parametrize("name", [*LANGUAGE_MODELS, "transformer"])
def test_bfloat16(name):
    """Activations in bfloat16 give finite float32 logits near those of float32, and
    finite gradients; parameters are float32."""
    make, inputs = networks()[name]
    exact, rough = make(0.0), make(0.0, "bfloat16")
    variables = jax.jit(rough.init)(jax.random.key(0), *inputs)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}
    variables = jax.tree.map(lambda x: x + 0.01, variables)
    expected = jax.jit(exact.apply)(variables, *inputs)
    found = jax.jit(rough.apply)(variables, *inputs)
    assert found.dtype == np.float32 and not np.array_equal(found, expected)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.1
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(rough.apply(v, *inputs) ** 2)))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient(variables)))


@pytest.mark.parametrize("name", ["lstm", "learned"])
def test_cache_in_bfloat16(name):
    """A step in bfloat16 keeps the dtypes of its cache, which a scan requires."""
    network = LANGUAGE_MODELS[name](0.0, "bfloat16")
    variables = network.init(jax.random.key(0), tokens_of(1, 2))
    cache = network.apply(variables, 2, method="init_cache")
    step = functools.partial(network.apply, variables, method="step")
    _, new = jax.eval_shape(step, cache, tokens_of(2), jnp.int32(0))
    dtypes = [[x.dtype for x in jax.tree.leaves(tree)] for tree in (cache, new)]
    assert dtypes[0] == dtypes[1]


def test_alignment():
    """Each head's weights of a target token add up to 1 over the source, are 0 at its
    padding, and do not depend on later tokens."""
    network, variables, _ = seq2seq()
    align = jax.jit(functools.partial(network.apply, variables, method="alignment"))
    source, target = sources(), tokens_of(3, 5)
    found = align(source, target)
    assert found.shape == (3, 2 * 2, 5, 6) and found.dtype == np.float32
    np.testing.assert_allclose(jnp.sum(found, axis=-1), 1, rtol=1e-5)
    pads = np.broadcast_to((source == 0)[:, None, None], found.shape)
    assert np.all(np.asarray(found)[pads] == 0) and np.any(found > 0.5)
    changed = target.copy()
    changed[:, 3:] = 1
    np.testing.assert_array_equal(align(source, changed)[:, :, :3], found[:, :, :3])


def test_uniform_logits():
    """With all parameters zero all tokens are equally likely."""
    for network, inputs in (
        (GPT(V, CONTEXT, 1, 2, 8, "learned", 0.0), (tokens_of(2, 3),)),
        (
            Transformer(V, V, 1, 2, 8, 8, 0.0),
            (tokens_of(2, 3), tokens_of(2, 3)),
        ),
    ):
        variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
        variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
        logits = network.apply(variables, *inputs)
        np.testing.assert_allclose(jax.nn.softmax(logits), 1 / V, rtol=1e-6)


def test_initial_weights():
    """Radford et al. 2019, section 2.3: weights have the standard deviation 0.02, those
    before the 2 N sums that of 0.02 / sqrt(2 N)."""
    network = GPT(400, 300, 3, 2, 100, "learned", 0.0)
    params = jax.jit(network.init)(jax.random.key(0), tokens_of(1, 2))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if leaf.ndim == 2:
            last = name.endswith("out/kernel")
            expected = 0.02 / np.sqrt(6) if last else 0.02
            assert np.std(leaf) == pytest.approx(expected, rel=0.05), name
        else:
            assert np.all(leaf == (1 if name.endswith("scale") else 0)), name


def test_shared_embeddings():
    """Without a vocabulary of the source, one matrix embeds both sides and gives the
    logits, as published: the base model's 36 blocks of attention and MLPs, and 37,000
    tokens, by hand."""
    network = Transformer(37_000, None, 6, 8, 512, 2048, 0.1)
    inputs = tokens_of(1, 2), tokens_of(1, 2)
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    found = sum(x.size for x in jax.tree.leaves(params))
    attention = 4 * (512 + 1) * 512
    mlp = (512 + 1) * 2048 + (2048 + 1) * 512
    norm = 2 * 512
    encoder, decoder = attention + mlp + 2 * norm, 2 * attention + mlp + 3 * norm
    assert found == 37_000 * 512 + 6 * (encoder + decoder)


@pytest.mark.parametrize(
    "network, words",
    [
        (GPT(V, 4, 1, 2, 8, "learned", 0.0), "at most model.context = 4.*there are 6"),
        (GPT(V, 8, 1, 3, 8, "learned", 0.0), "model.width = 8.*model.num_heads = 3"),
        (GPT(V, 8, 1, 8, 8, "rotary", 0.0), "rotary needs an even width per head"),
        (
            GPT(V, 8, 1, 2, 8, "nosuch", 0.0),
            "model.positions 'nosuch'.*learned, rotary",
        ),
    ],
)
def test_impossible_networks(network, words):
    """What cannot work is refused before anything is compiled."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(network.init, jax.random.key(0), tokens_of(2, 6))


@pytest.mark.parametrize(
    "attention, words",
    [
        (MultiHeadAttention(4, 6), "multiple of model.num_heads = 4"),
        (MultiHeadAttention(3, 6, rotary=True), "needs the positions"),
    ],
)
def test_impossible_attention(attention, words):
    """So is an attention by itself."""
    x = np.zeros((1, 2, 6), np.float32)
    with pytest.raises(ValueError, match=words):
        attention.init(jax.random.key(0), x, method=MultiHeadAttention.keys_values)

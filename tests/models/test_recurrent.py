"""Laws of recurrent layers, and of the language model of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.recurrent import CELLS, Recurrent, RecurrentLM

BATCH, LENGTH, FEATURES, WIDTH, SIZE = 3, 7, 4, 5, 9
DRAWS = np.random.default_rng(0)
X = DRAWS.normal(size=(BATCH, LENGTH, FEATURES)).astype(np.float32)
TOKENS = DRAWS.integers(1, SIZE, (BATCH, LENGTH)).astype(np.int32)
cells = pytest.mark.parametrize("cell", CELLS)


def close(found, expected, atol=1e-6):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=atol), found, expected
    )


@functools.cache
def layer(cell, reverse=False):
    """A layer as a function (x, state, mask, reset), and random states."""
    module = Recurrent(cell, WIDTH, reverse=reverse)
    zeros = Recurrent(cell, WIDTH).initial(BATCH)
    params = module.init(jax.random.key(1), X, zeros)
    params = jax.tree.map(lambda x: x + 0.3, params)  # the biases begin at zero
    draws = np.random.default_rng(1)
    states = tuple(draws.normal(size=x.shape).astype(np.float32) for x in zeros)
    return jax.jit(functools.partial(module.apply, params)), states


@cells
def test_masked_steps_do_not_happen(cell):
    """Where the mask is False the state stays: the outputs of the other steps, and the
    last state, are those of the sequence without these steps."""
    run, state = layer(cell)
    mask = np.ones((BATCH, LENGTH), bool)
    mask[:, [0, 3, 4, 6]] = False
    outputs, last = run(X, state, mask)
    expected, expected_last = run(X[:, [1, 2, 5]], state)
    close(outputs[:, [1, 2, 5]], expected)
    close(last, expected_last)
    close(outputs[:, 4], outputs[:, 2])  # it repeats the state
    close(run(X, state, np.zeros_like(mask))[1], state)
    for i, length in enumerate((7, 2, 4)):  # padded at the end, as sources are
        mask[i] = np.arange(LENGTH) < length
    changed = np.where(mask[..., None], X, 100.0)
    close(run(changed, state, mask)[1], run(X, state, mask)[1])
    alone, _ = run(X[1:2, :2], tuple(x[1:2] for x in state))
    close(run(X, state, mask)[0][1:2, :2], alone)


@cells
def test_a_reset_begins_anew(cell):
    """From a reset on, the outputs are those of a sequence that begins there."""
    run, state = layer(cell)
    reset = np.zeros((BATCH, LENGTH), bool)
    reset[:, 3] = True
    outputs, last = run(X, state, None, reset)
    zeros = tuple(np.zeros_like(x) for x in state)
    expected, expected_last = run(X[:, 3:], zeros)
    close(outputs[:, 3:], expected)
    close(last, expected_last)
    close(outputs[:, :3], run(X[:, :3], state)[0])
    reset[:, 0] = True
    close(run(X, state, None, reset)[0][:, :3], run(X[:, :3], zeros)[0])


@cells
def test_reverse(cell):
    """A layer that reads from the end is one that reads the reversed sequence; the
    state that it returns is that of the first input."""
    (forward, state), (backward, _) = layer(cell), layer(cell, reverse=True)
    outputs, last = backward(X, state)
    expected, expected_last = forward(X[:, ::-1], state)
    close(outputs, expected[:, ::-1])
    close(last, expected_last)
    close(last[0], outputs[:, 0])
    mask = np.arange(LENGTH)[None] < np.array([[7], [2], [4]])  # padding is read first
    masked, last = backward(X, state, mask)
    alone, alone_last = backward(X[1:2, :2], tuple(x[1:2] for x in state))
    close(masked[1:2, :2], alone)
    close(tuple(x[1:2] for x in last), alone_last)


@cells
def test_a_sequence_in_pieces(cell):
    """Two pieces, the state of the first passed on, are the whole."""
    run, state = layer(cell)
    outputs, last = run(X, state)
    first, between = run(X[:, :3], state)
    second, end = run(X[:, 3:], between)
    close(np.concatenate([first, second], axis=1), outputs)
    close(end, last)


@functools.cache
def model(cell="lstm", tied=False, num_layers=2, dropout=0.0, dtype="float32"):
    """A language model, and its parameters."""
    module = RecurrentLM(SIZE, cell, num_layers, WIDTH, tied, dropout, dtype)
    return module, module.init(jax.random.key(0), TOKENS)


models = pytest.mark.parametrize(
    "options", [("lstm",), ("gru",), ("gru", True), ("lstm", True, 1)], ids=str
)


@models
def test_cached_is_uncached(options):
    """One token after the other gives the logits of the whole sequence."""
    module, params = model(*options)
    logits = module.apply(params, TOKENS)
    cache = module.apply(params, BATCH, method="init_cache")
    step = jax.jit(functools.partial(module.apply, params, method="step"))
    for i in range(LENGTH):
        found, cache = step(cache, TOKENS[:, i], i)
        close(found, logits[:, i])
    assert all(len(x) == BATCH for x in jax.tree.leaves(cache))


@models
def test_causality(options):
    """Changing a token moves no logits before it, and moves its own and those after;
    exactly, since nothing else enters them. So does the Jacobian with respect to it."""
    module, params = model(*options)
    run = jax.jit(functools.partial(module.apply, params))
    logits = np.asarray(run(TOKENS))
    for i in range(LENGTH):
        changed = TOKENS.copy()
        changed[:, i] = changed[:, i] % (SIZE - 1) + 1
        found = np.asarray(run(changed))
        np.testing.assert_array_equal(found[:, :i], logits[:, :i])
        moved = np.abs(found - logits).max(axis=(0, 2))
        assert np.all(moved[i:] > 0), i


def test_segments():
    """The documents of a packed example give the logits that each gives alone; so does
    a document that begins at the start of the example with any number."""
    module, params = model()
    segment = np.array([[1, 1, 1, 2, 2, 3, 0]], np.int32).repeat(BATCH, axis=0)
    packed = module.apply(params, TOKENS, segment)
    for here in (slice(0, 3), slice(3, 5), slice(5, 6)):
        close(packed[:, here], module.apply(params, TOKENS[:, here]))
    one = np.ones_like(segment)
    close(module.apply(params, TOKENS, one), module.apply(params, TOKENS))


def test_batch_mates_change_nothing():
    """A row's logits are those that it has alone, with dropout too, which depends on
    the index of its example."""
    module, params = model(dropout=0.5)
    rngs = {"dropout": jax.random.key(3)}
    index = np.array([4, 7, 5], np.int32)
    logits = module.apply(params, TOKENS, None, index, rngs=rngs)
    for i in range(BATCH):
        here = slice(i, i + 1)
        alone = module.apply(params, TOKENS[here], None, index[here], rngs=rngs)
        close(logits[here], alone)
    assert np.abs(logits - module.apply(params, TOKENS)).max() > 0.01


def test_tied():
    """Tied logits are products with the embeddings: doubling these doubles them, if the
    layers see no more of it. Otherwise there is a head of V W + V parameters."""
    number = [
        sum(x.size for x in jax.tree.leaves(model("gru", tied)[1]))
        for tied in (True, False)
    ]
    assert number[1] - number[0] == SIZE * WIDTH + SIZE
    module, params = model("gru", True)
    params = jax.tree.map(jnp.zeros_like, params["params"])
    bias = np.linspace(-1, 1, 4 * WIDTH, dtype=np.float32)
    params["layers_1"]["bias"] = bias  # its outputs do not depend on the tokens
    draws = np.random.default_rng(2)
    logits = []
    table = draws.normal(size=(SIZE, WIDTH)).astype(np.float32)
    for factor in (1, 2):
        params["embed"]["embedding"] = table * factor
        logits.append(module.apply({"params": params}, TOKENS))
    assert np.abs(logits[0]).max() > 0.01
    close(logits[1], 2 * logits[0])


def test_dtype():
    """In bfloat16 parameters, states and logits stay float32, and logits are near."""
    module, params = model(dtype="bfloat16")
    logits = module.apply(params, TOKENS)
    cache = module.apply(params, BATCH, method="init_cache")
    dtypes = {x.dtype for x in jax.tree.leaves((params, logits, cache))}
    assert dtypes == {jnp.dtype("float32")}
    close(logits, model()[0].apply(params, TOKENS), atol=0.05)


def test_unknown_cell():
    """An unknown cell is refused with the known ones."""
    with pytest.raises(ValueError, match="nosuch.*lstm, gru"):
        model("nosuch")

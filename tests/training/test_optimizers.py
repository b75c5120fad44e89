"""Laws of the optimisers, against Adam written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training import optimizers

OPTIONS = {
    "learning_rate": 0.1,
    "warmup_steps": 0,
    "decay_steps": None,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "clip_norm": 1e9,
    "clip": "global",
    "ema_decay": 0.99,
    "ema_warmup": False,
}


def updates_of(options, gradients):
    """The updates of one parameter vector for a row of gradients, f64[n, F]."""
    return moved_by(optimizers.make(**OPTIONS | options).tx, gradients)


def moved_by(tx, gradients):
    """The updates of a transformation, f64[n, F]."""
    params = jnp.zeros(gradients.shape[1:])
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for gradient in jnp.asarray(gradients, jnp.float32):
        change, state = update(gradient, state, params)
        found.append(np.asarray(change, np.float64))
    return np.stack(found)


def rates_of(num_steps, **options):
    """The learning rates: what Adam moves by under a constant gradient."""
    return -updates_of(options, np.ones((num_steps, 1)))[:, 0]


def adam(gradients, rate, b1, b2, eps):
    """Kingma and Ba 2015, algorithm 1, in float64."""
    m = v = np.zeros(gradients.shape[1:])
    for t, gradient in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        yield -rate * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def test_adam():
    """The updates are those of algorithm 1 of Kingma and Ba 2015."""
    gradients = np.random.default_rng(0).normal(size=(30, 4)) * [1, 10, 0.1, 1e-3]
    options = {"b1": 0.8, "b2": 0.97, "eps": 1e-3}
    expected = np.stack(list(adam(gradients, 0.1, **options)))
    np.testing.assert_allclose(updates_of(options, gradients), expected, rtol=2e-4)


def test_warmup_is_linear_from_zero():
    """The rate of step k (from 0) is k / warmup_steps of the whole, then constant."""
    expected = 0.1 * np.minimum(np.arange(9) / 4, 1)
    np.testing.assert_allclose(rates_of(9, warmup_steps=4), expected, atol=1e-6)
    assert rates_of(1, warmup_steps=4)[0] == 0


def test_no_warmup():
    """Without a warmup the first step has the whole rate."""
    np.testing.assert_allclose(rates_of(3), 0.1, rtol=1e-4)


@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_cosine(warmup_steps):
    """After the warmup the rate is half of 1 + cos(pi x), and 0 from decay_steps on."""
    x = (np.arange(12) - warmup_steps) / (10 - warmup_steps)
    expected = 0.05 * (1 + np.cos(np.pi * np.clip(x, 0, 1)))
    expected[:warmup_steps] = 0.1 * np.arange(warmup_steps) / 2
    found = rates_of(12, warmup_steps=warmup_steps, decay_steps=10)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", optimizers.CLIPS)
def test_clip_is_of_the_global_norm(name):
    """A long gradient is scaled to clip_norm as a whole, a short one left alone."""
    made = optimizers.make(**OPTIONS | {"clip": name, "clip_norm": 2.0, "b1": 0.0})
    tree = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # of norm 5
    tx = {"per_replica": made.replica_tx, "global": made.tx}[name]
    changed, state = tx.update(tree, tx.init(tree), tree)
    if name == "per_replica":
        np.testing.assert_allclose(changed["a"], [1.2, 0.0], rtol=1e-6)
        np.testing.assert_allclose(changed["b"], [[1.6]], rtol=1e-6)
        short = jax.tree.map(lambda x: 0.1 * x, tree)
        same, _ = tx.update(short, state)
        np.testing.assert_allclose(same["a"], short["a"], rtol=1e-6)
        assert not jax.tree.leaves(state), "it has to be stateless"
    else:
        (moments,) = (s for s in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(s))
        np.testing.assert_allclose(moments.nu["b"], [[0.001 * 1.6**2]], rtol=1e-4)


def is_adam(x):
    """Whether this is the state of optax's Adam."""
    return isinstance(x, optax.ScaleByAdamState)


@pytest.mark.parametrize("name", optimizers.CLIPS)
def test_clip_happens_once(name):
    """Each name clips in one of the two places and leaves the other alone."""
    made = optimizers.make(**OPTIONS | {"clip": name, "clip_norm": 1e-3})
    gradient = jnp.array([3.0])
    (clipped,), _ = made.replica_tx.update(
        (gradient,), made.replica_tx.init(())
    )
    assert bool(clipped[0] == gradient[0]) == (name == "global")


def test_unknown_clip_is_refused():
    """An unknown name is refused beside the known ones."""
    with pytest.raises(ValueError, match="'sometimes'.*global, per_replica"):
        optimizers.make(**OPTIONS | {"clip": "sometimes"})


def test_wrong_key_is_refused():
    """A key too many is a TypeError: a config cannot be misread in silence."""
    with pytest.raises(TypeError, match="momentum"):
        optimizers.make(**OPTIONS, momentum=0.9)


# Without clipping, with a linear decay.

PLAIN = {
    "learning_rate": 0.1,
    "decay_start": None,
    "decay_end": None,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "ema_decay": 0.9,
}


def plain_updates_of(options, gradients):
    """As `updates_of`."""
    return moved_by(optimizers.make_plain(**PLAIN | options).tx, gradients)


def test_plain_is_adam():
    """The updates are those of Adam at a constant rate, however long the gradient."""
    gradients = np.random.default_rng(1).normal(size=(20, 3)) * [1, 1e4, 1e-2]
    options = {"b1": 0.5, "b2": 0.97, "eps": 1e-3}
    expected = np.stack(list(adam(gradients, 0.1, **options)))
    found = plain_updates_of(options, gradients)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    replica_tx = optimizers.make_plain(**PLAIN).replica_tx
    gradient = jnp.array([1e9])
    same, _ = replica_tx.update(gradient, replica_tx.init(gradient))
    assert same[0] == gradient[0]


@pytest.mark.parametrize("updates_a_step", [1, 3])
@pytest.mark.parametrize("start", [0, 2])
def test_linear_decay(start, updates_a_step):
    """The rate is whole up to decay_start and falls in a line to 0 at decay_end, by the
    step, however many updates there are in one."""
    options = {"decay_start": start, "decay_end": 6, "updates_a_step": updates_a_step}
    step = np.arange(8 * updates_a_step) // updates_a_step
    expected = 0.1 * np.clip((6 - step) / (6 - start), 0, 1)
    found = -plain_updates_of(options, np.ones((len(step), 1)))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_plain_average():
    """The average's memory grows with the run: min(decay, step / (step + 9)); decay 0
    keeps the parameters themselves."""
    decay = optimizers.make_plain(**PLAIN).ema_decay
    found = [float(decay(step)) for step in (0, 1, 9, 81, 1000)]
    np.testing.assert_allclose(found, [0, 0.1, 0.5, 0.9, 0.9], rtol=1e-6)
    none = optimizers.make_plain(**PLAIN | {"ema_decay": 0.0}).ema_decay
    assert [float(none(step)) for step in (0, 1, 1000)] == [0, 0, 0]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"decay_start": 3}, "both optim.decay_start and optim.decay_end"),
        ({"decay_end": 3}, "both optim.decay_start and optim.decay_end"),
        ({"decay_start": 3, "decay_end": 3}, "decay_start = 3.*decay_end = 3"),
        ({"decay_start": -1, "decay_end": 3}, "decay_start = -1"),
        ({"ema_decay": 1.0}, "optim.ema_decay"),
    ],
)
def test_plain_refusals(change, words):
    """A decay without a length, or an average without an end, is refused in words."""
    with pytest.raises(ValueError, match=words):
        optimizers.make_plain(**PLAIN | change)

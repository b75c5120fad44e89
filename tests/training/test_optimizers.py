"""Laws of the optimisers, against Adam written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training import optimizers

OPTIONS = {
    "learning_rate": 0.1,
    "warmup_steps": 0,
    "decay": "linear",
    "decay_start": None,
    "decay_end": None,
    "decay_to": 0.0,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "clip": "none",
    "ema_decay": 0.9,
    "ema_warmup": True,
}


def make(**options):
    """An optimiser that differs from OPTIONS in a few of them."""
    return optimizers.make(**OPTIONS | options)


def updates_of(gradients, **options):
    """The updates of a parameter vector for a series of gradients, f64[n, F]."""
    tx = make(**options).tx
    state = tx.init(jnp.zeros(gradients.shape[1:]))

    def step(state, gradient):
        update, state = tx.update(gradient, state)
        return state, update

    gradients = jnp.asarray(gradients, jnp.float32)
    return np.asarray(
        jax.jit(jax.lax.scan, static_argnums=0)(step, state, gradients)[1]
    )


def rates_of(num_updates, **options):
    """The learning rates: what Adam moves by under a constant gradient."""
    return -updates_of(np.ones((num_updates, 1)), **options)[:, 0]


def adam(gradients, rate, b1, b2, eps):
    """Kingma and Ba 2015, algorithm 1, in float64."""
    m = v = np.zeros(gradients.shape[1:])
    for t, gradient in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        yield -rate * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


@pytest.mark.parametrize("b1", [0.5, 0.8])
def test_adam(b1):
    """The updates are those of algorithm 1 of Kingma and Ba 2015 at a constant rate,
    however long the gradient is."""
    gradients = np.random.default_rng(0).normal(size=(30, 4)) * [1, 1e4, 0.1, 1e-3]
    options = {"b1": b1, "b2": 0.97, "eps": 1e-3}
    expected = np.stack(list(adam(gradients, 0.1, **options)))
    np.testing.assert_allclose(updates_of(gradients, **options), expected, rtol=2e-4)


def test_warmup_is_linear_from_zero():
    """The rate of step k (from 0) is k / warmup_steps of the whole, then constant."""
    expected = 0.1 * np.minimum(np.arange(9) / 4, 1)
    found = rates_of(9, warmup_steps=4)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0] == 0


def test_no_warmup():
    """Without a warmup the first step has the whole rate."""
    np.testing.assert_allclose(rates_of(3), 0.1, rtol=1e-4)


@pytest.mark.parametrize("start,warmup_steps", [(None, 0), (None, 2), (4, 2)])
def test_cosine(start, warmup_steps):
    """After the warmup, or from decay_start on, the rate is half of 1 + cos(pi x), and
    0 from decay_end on."""
    begin = warmup_steps if start is None else start
    x = (np.arange(12) - begin) / (10 - begin)
    expected = 0.05 * (1 + np.cos(np.pi * np.clip(x, 0, 1)))
    expected[:warmup_steps] = 0.1 * np.arange(warmup_steps) / 2
    options = {"warmup_steps": warmup_steps, "decay_start": start, "decay_end": 10}
    found = rates_of(12, decay="cosine", **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_decay_to(decay):
    """The rate falls to decay_to of itself and stays there: nanoGPT's min_lr."""
    x = np.clip(np.arange(12) / 10, 0, 1)
    left = 1 - x if decay == "linear" else (1 + np.cos(np.pi * x)) / 2
    found = rates_of(12, decay=decay, decay_end=10, decay_to=0.25)
    np.testing.assert_allclose(found, 0.1 * (0.25 + 0.75 * left), rtol=1e-4)


@pytest.mark.parametrize("updates_per_step", [1, 3])
def test_inverse_sqrt(updates_per_step):
    """Vaswani et al. 2017, equation 3, at the paper's width and warmup, with the rate
    that is reached at the end of the warmup."""
    width, warmup, step = 512, 4000, np.arange(1, 20_000, 7)
    expected = width**-0.5 * np.minimum(step**-0.5, step * warmup**-1.5)
    rate = (width * warmup) ** -0.5
    schedule = optimizers.make_schedule(
        rate, warmup, "inverse_sqrt", None, None, 0.0, updates_per_step
    )
    np.testing.assert_allclose(schedule(step * updates_per_step), expected, rtol=1e-5)
    assert schedule(0) == 0


def test_weight_decay():
    """AdamW: besides Adam's update, matrices lose the learning rate times weight_decay
    times themselves, biases and scales nothing; without it, the chain is Adam's."""
    params = {"kernel": jnp.full((2, 3), 5.0), "bias": jnp.full(3, 5.0)}
    gradient = jax.tree.map(jnp.ones_like, params)
    found, chains = {}, {}
    for weight_decay in (0.0, 0.3):
        tx = make(weight_decay=weight_decay).tx
        state = tx.init(params)
        chains[weight_decay] = list(state)
        found[weight_decay], _ = tx.update(gradient, state, params)
    assert chains[0.0] == ["clip", "adam", "learning_rate"]
    assert chains[0.3] == ["clip", "adam", "weight_decay", "learning_rate"]
    change = jax.tree.map(lambda x, y: x - y, found[0.3], found[0.0])
    np.testing.assert_allclose(change["kernel"], -0.1 * 0.3 * 5, rtol=1e-5)
    np.testing.assert_array_equal(change["bias"], 0)


@pytest.mark.parametrize("updates_per_step", [1, 3])
@pytest.mark.parametrize("start", [0, 2])
def test_linear_decay(start, updates_per_step):
    """The rate is whole until decay_start and falls in a line to 0 at decay_end; it
    counts steps, however many updates there are in one."""
    options = {"decay_start": start, "decay_end": 6}
    step = np.arange(8 * updates_per_step) // updates_per_step
    expected = 0.1 * np.clip((6 - step) / (6 - start), 0, 1)
    found = rates_of(len(step), updates_per_step=updates_per_step, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_schedules_are_those_of_optax():
    """Every rate of every step is exactly that of optax's own schedules: of
    `warmup_cosine_decay_schedule`, and of `linear_schedule` with a delayed start."""
    counts = np.arange(80)
    schedule = functools.partial(optimizers.make_schedule, 2e-4)
    for warmup in (0, 7):
        expected = optax.warmup_cosine_decay_schedule(0.0, 2e-4, warmup, 50)
        found = schedule(warmup, "cosine", None, 50, 0.0, 1)
        np.testing.assert_array_equal(
            jax.vmap(found)(counts), jax.vmap(expected)(counts)
        )
    expected = optax.linear_schedule(2e-4, 0.0, 20, 10)
    found = schedule(0, "linear", 10, 30, 0.0, 1)
    np.testing.assert_array_equal(jax.vmap(found)(counts), jax.vmap(expected)(counts))
    assert schedule(0, "linear", None, None, 0.0, 1) == 2e-4


@pytest.mark.parametrize("name", optimizers.CLIPS)
def test_clipping_uses_the_global_norm_in_one_place(name):
    """A long gradient is scaled to clip_norm as a whole, a short one left alone; each
    name clips in one of the two places ("none" in neither) and leaves the other."""
    made = make(clip=name, clip_norm=2.0, b1=0.0, b2=0.0)
    long = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # of norm 5
    clipped = {"a": jnp.array([1.2, 0.0]), "b": jnp.array([[1.6]])}
    short = jax.tree.map(lambda x: 0.1 * x, long)
    state = made.replica_tx.init(long)
    assert not jax.tree.leaves(state), "replica_tx must be stateless"
    for gradient, shorter in ((long, clipped), (short, short)):
        on_replica, _ = made.replica_tx.update(gradient, state)
        _, inner = made.tx.update(gradient, made.tx.init(long))
        for place, tree in {
            "per_replica": on_replica,
            "global": jax.tree.map(jnp.sqrt, inner["adam"].nu),  # with b2 = 0
        }.items():
            expected = shorter if place == name else gradient
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), tree, expected
            )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"clip": "often"}, "Unknown optim.clip 'often'.*none, global, per_replica"),
        ({"decay": "step"}, "Unknown optim.decay 'step'.*linear, cosine, inverse_sqrt"),
        ({"decay_start": 3}, "decay_start = 3 requires optim.decay_end"),
        ({"decay_start": 3, "decay_end": 3}, "decay_start = 3.*decay_end = 3"),
        ({"decay_start": -1, "decay_end": 3}, "decay_start = -1"),
        ({"decay_end": 2, "warmup_steps": 2}, "warmup_steps = 2.*decay_end = 2"),
        ({"decay": "inverse_sqrt"}, "optim.warmup_steps above 0"),
        ({"decay": "inverse_sqrt", "warmup_steps": 2, "decay_end": 9}, "to None"),
        ({"ema_decay": 1.0}, "optim.ema_decay"),
    ],
)
def test_invalid_options_are_refused(change, message):
    """An unknown name, a decay of no length and an average without an end raise an
    error that names the key."""
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_unknown_key_is_refused():
    """An unknown key is a TypeError: no part of a config is ignored."""
    with pytest.raises(TypeError, match="momentum"):
        make(momentum=0.9)


def test_average():
    """The average's memory grows with the run: min(decay, step / (step + 9)), unless
    ema_warmup is off; decay 0 keeps the parameters themselves."""
    steps = (0, 1, 9, 81, 1000)
    found = [float(make().ema_decay(step)) for step in steps]
    np.testing.assert_allclose(found, [0, 0.1, 0.5, 0.9, 0.9], rtol=1e-6)
    found = [float(make(ema_warmup=False).ema_decay(step)) for step in steps]
    np.testing.assert_allclose(found, [0, 0.9, 0.9, 0.9, 0.9], rtol=1e-6)
    assert [float(make(ema_decay=0.0).ema_decay(step)) for step in steps] == [0] * 5

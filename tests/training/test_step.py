"""Laws of the one train step, on a family of two phases whose sums fit on a line."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training import ema, parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.optimizers import Optimizer
from diffusion_jax.training.state import Phase
from diffusion_jax.training.step import make_train_step

RATE = 0.1
DECAY = 0.75
PLAIN = Optimizer(optax.identity(), optax.sgd(RATE), ema.make_decay(DECAY, False))
DISC = Phase("disc", ("disc",), PLAIN)
GEN = Phase("gen", ("gen",), PLAIN)
NUM_DEVICES = 2
X = np.array([1.0, 2.0, 4.0, 9.0], np.float32)


class Aux(NamedTuple):
    """As methods.base.Aux."""

    metrics: dict
    model_state: dict
    observed: object


@dataclasses.dataclass(frozen=True)
class GANLoss:
    """Loss (g d - x)^2, whichever of g and d is trained; every phase counts, and
    remembers what it was shown."""

    def init(self, key):
        params = {"gen": {"w": jnp.float32(2.0)}, "disc": {"w": jnp.float32(3.0)}}
        seen = {"gen": {"seen": jnp.float32(0)}, "disc": {"seen": jnp.float32(0)}}
        return params, seen, {"count": jnp.int32(0), "x": jnp.zeros(4)}

    def loss(self, phase, params, model_state, extra, batch, key, step):
        g, d = params["gen"]["w"], params["disc"]["w"]
        error = g * d - batch["x"]
        metrics = {
            "mean_x": batch["x"].mean(),
            "count_before": extra["count"],
            "random": jax.random.uniform(key),
        }
        mean = batch["x"].mean()
        seen = jax.tree.map(lambda x: x + mean, model_state)
        return jnp.mean(error**2), Aux(metrics, seen, {"x": batch["x"]})

    def remember(self, extra, observed):
        return {"count": extra["count"] + 1, **observed}


@functools.cache
def compiled(phases):
    """The initial state and the step on two devices."""
    game = GANLoss()
    initial = functools.partial(states.initial, phases=phases, init=game.init)
    devices = jax.local_devices()[:NUM_DEVICES]
    step = make_train_step(phases, game.loss, game.remember)
    step = jax.pmap(step, axis_name=parallel.AXIS, devices=devices)
    return jax.jit(initial)(jax.random.key(5)), step


def run(phases, num_steps=1):
    """Runs steps on two devices; returns the state before, after, and all metrics."""
    before, step = compiled(phases)
    state = jax.tree.map(lambda x: jnp.stack([x] * NUM_DEVICES), before)
    history = []
    for _ in range(num_steps):
        state, metrics = step(state, {"x": X.reshape(NUM_DEVICES, -1)})
        history.append(jax.tree.map(lambda x: x[0], metrics))
    return before, jax.tree.map(lambda x: x[0], state), history


@pytest.fixture(scope="module")
def both():
    """One step of both phases."""
    return run((DISC, GEN))


def test_phases_take_turns(both):
    """The second phase sees the first's update: by hand, with SGD."""
    _, after, (metrics,) = both
    g, d, mean = 2.0, 3.0, X.mean()
    d_new = d - RATE * 2 * g * (g * d - mean)
    g_new = g - RATE * 2 * d_new * (g * d_new - mean)
    assert after.params["disc"]["w"] == pytest.approx(d_new, rel=1e-6)
    assert after.params["gen"]["w"] == pytest.approx(g_new, rel=1e-6)
    loss = np.mean((g * d_new - X) ** 2)
    assert metrics["gen/loss"] == pytest.approx(loss, rel=1e-6)
    norm = abs(2 * g * (g * d - mean))
    assert metrics["disc/grad_norm"] == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("phase,other", [(DISC, "gen"), (GEN, "disc")])
def test_a_phase_leaves_the_other_group_alone(phase, other):
    """Parameters, averages and batch statistics of the other group stay equal."""
    before, after, _ = run((phase,), num_steps=2)
    for part in ("params", "ema", "model_state"):
        old, new = getattr(before, part), getattr(after, part)
        assert jax.tree.all(jax.tree.map(lambda a, b: a == b, old[other], new[other]))
        moved = jax.tree.map(lambda a, b: a != b, old[phase.name], new[phase.name])
        assert jax.tree.all(moved), part


def test_statistics_belong_to_the_phase_that_trains_them(both):
    """Each group's batch statistics move once a step, to the mean over devices."""
    _, after, _ = both
    assert after.model_state["gen"]["seen"] == pytest.approx(X.mean())
    assert after.model_state["disc"]["seen"] == pytest.approx(X.mean())


def test_extra_goes_from_phase_to_phase(both):
    """A phase is given the extra state that was made after the one before."""
    _, after, (metrics,) = both
    assert (metrics["disc/count_before"], metrics["gen/count_before"]) == (0, 1)
    assert after.extra["count"] == 2


def test_every_device_remembers_the_whole_batch(both):
    """What is observed on all devices is handed over in the order of the examples."""
    np.testing.assert_array_equal(both[1].extra["x"], X)


def test_metrics_have_their_phase_before_them(both):
    """Several phases: name/metric; one phase: the metric alone. Means over devices."""
    names = {"loss", "grad_norm", "mean_x", "count_before", "random"}
    _, _, (metrics,) = both
    assert metrics.keys() == {f"{p}/{name}" for p in ("disc", "gen") for name in names}
    assert metrics["gen/mean_x"] == pytest.approx(X.mean())
    assert run((GEN,))[2][0].keys() == names


def test_average_follows_after_the_update():
    """The first step copies the new parameters; the second moves by 1 - decay."""
    _, one, _ = run((DISC, GEN), 1)
    _, two, _ = run((DISC, GEN), 2)
    for group in ("gen", "disc"):
        first, second = one.params[group]["w"], two.params[group]["w"]
        assert one.ema[group]["w"] == pytest.approx(float(first), rel=1e-6)
        expected = DECAY * first + (1 - DECAY) * second
        assert two.ema[group]["w"] == pytest.approx(float(expected), rel=1e-6)


def test_step_and_key():
    """The step counts, the run's key stays, and every phase of every step has its own
    key: the run's, folded with the step and with the number of the phase."""
    before, after, history = run((DISC, GEN), 3)
    assert after.step == 3
    assert jnp.all(jax.random.key_data(before.key) == jax.random.key_data(after.key))
    found = [float(m[f"{p}/random"]) for m in history for p in ("disc", "gen")]
    keys = [
        jax.random.fold_in(jax.random.fold_in(before.key, step), number)
        for step in range(3)
        for number in range(2)
    ]
    assert found == [float(jax.random.uniform(key)) for key in keys]
    assert len(set(found)) == 6


@pytest.mark.parametrize("statistics", [True, False])
def test_a_state_keeps_its_structure(statistics):
    """A step returns a state of the structure, shapes and dtypes that it was given:
    the second step is not compiled anew, and a checkpoint fits the first state."""

    def loss(*args):
        value, aux = GANLoss().loss(*args)
        return value, aux if statistics else aux._replace(model_state={})

    def init(key):
        params, seen, extra = GANLoss().init(key)
        return params, seen if statistics else {}, extra

    def one_device(key):
        state = states.initial(key, (DISC, GEN), init)
        batched = jax.tree.map(lambda x: x[None], (state, {"x": X}))
        step = make_train_step((DISC, GEN), loss, GANLoss().remember)
        return state, jax.vmap(step, axis_name=parallel.AXIS)(*batched)[0]

    before, after = jax.eval_shape(one_device, jax.random.key(0))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert ((1, *old.shape), old.dtype) == (new.shape, new.dtype)


def test_phases_share_out_the_batch():
    """A phase of part (i, n) sees every n-th example from the i-th on, of each device's
    shard, and phases of one name share an optimiser; by hand, with SGD."""
    first, second = DISC._replace(part=(0, 2)), DISC._replace(part=(1, 2))
    _, after, _ = run((first, second))
    d = 3.0
    for part in (X[::2], X[1::2]):
        d -= RATE * 2 * 2.0 * (2.0 * d - part.mean())
    assert after.params["disc"]["w"] == pytest.approx(d, rel=1e-6)
    assert after.opt_state.keys() == {"disc"}
    seen = X[::2].mean() + X[1::2].mean()
    assert after.model_state["disc"]["seen"] == pytest.approx(seen)
    _, after, (metrics,) = run((second,))
    np.testing.assert_array_equal(after.extra["x"], X[1::2])
    assert metrics["mean_x"] == pytest.approx(X[1::2].mean())


def test_nothing_to_remember():
    """A phase that observes None hands None over, and can leave the extra state."""
    told = []

    def loss(*args):
        value, aux = GANLoss().loss(*args)
        return value, aux._replace(observed=None)

    def remember(extra, observed):
        told.append(observed)
        return extra

    @jax.jit
    def run(key):
        state = states.initial(key, (DISC,), GANLoss().init)
        step = make_train_step((DISC,), loss, remember)
        one_device = jax.tree.map(lambda x: x[None], (state, {"x": X}))
        return jax.vmap(step, axis_name=parallel.AXIS)(*one_device)[0].extra

    assert run(jax.random.key(0))["count"] == 0
    assert told == [None]


def test_initial_average_is_a_copy():
    """Average and parameters share no buffer: both can be donated."""
    state = jax.jit(lambda key: states.initial(key, (DISC, GEN), GANLoss().init))(
        jax.random.key(0)
    )
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.params)]
    pointers += [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.ema)]
    assert len(set(pointers)) == len(pointers)

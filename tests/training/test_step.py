"""Laws of the train step, on a family of two phases that can be computed by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training import ema, optimizers, parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.optimizers import Optimizer
from diffusion_jax.training.state import Loss, Phase, Variables
from diffusion_jax.training.step import loss_names, make_train_step

RATE = 0.1
DECAY = 0.75
PLAIN = Optimizer(optax.identity(), optax.sgd(RATE), ema.make_decay(DECAY, False))
DISC = Phase("disc", ("disc",), PLAIN)
GEN = Phase("gen", ("gen",), PLAIN)
NUM_DEVICES = 2
X = np.array([1.0, 2.0, 4.0, 9.0], np.float32)


@dataclasses.dataclass(frozen=True)
class Game:
    """The loss of both phases is (g d - x)^2; aux counts the phases and keeps x."""

    phases: tuple[Phase, ...]
    statistics: bool = True
    observes: bool = True

    def init(self, key):
        params = {"gen": {"w": jnp.float32(2.0)}, "disc": {"w": jnp.float32(3.0)}}
        seen = {"gen": {"seen": jnp.float32(0)}, "disc": {"seen": jnp.float32(0)}}
        variables = Variables(params, seen if self.statistics else {})
        return variables, {"count": jnp.int32(0), "x": jnp.zeros(4)}

    def loss(self, phase, variables, aux, batch, key, step):
        params, state = variables
        error = params["gen"]["w"] * params["disc"]["w"] - batch["x"]
        metrics = {
            "mean_x": batch["x"].mean(),
            "count_before": aux["count"],
            "random": jax.random.uniform(key),
        }
        return Loss(
            jnp.mean(error**2),
            metrics,
            jax.tree.map(lambda x: x + batch["x"].mean(), state),
            {"x": batch["x"]} if self.observes else None,
        )

    def after_step(self, variables, aux, observed):
        if observed is None:
            return variables.state, aux
        return variables.state, {"count": aux["count"] + 1, **observed}


@functools.cache
def compiled(game):
    """The initial state and the step on two devices."""
    initial = functools.partial(states.initial, game)
    step = jax.pmap(
        make_train_step(game, parallel.AXIS),
        parallel.AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=jax.local_devices()[:NUM_DEVICES],
    )
    return jax.jit(initial)(jax.random.key(5)), step


@functools.cache
def run(*phases, num_steps=1, **options):
    """Runs steps on two devices; returns the state before, after, and all metrics."""
    before, step = compiled(Game(phases, **options))
    state, history = before, []
    for _ in range(num_steps):
        state, metrics = step(state, {"x": X.reshape(NUM_DEVICES, -1)})
        history.append(jax.device_get(metrics))
    return before, state, history


@pytest.fixture(scope="module")
def both():
    """One step of both phases."""
    return run(DISC, GEN)


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
def test_a_group_that_no_phase_trains_is_frozen(phase, other):
    """Its parameters, their average and its statistics are in the state and stay equal;
    those of the trained group change."""
    before, after, _ = run(phase, num_steps=2)
    for part in ("params", "ema", "model_state"):
        old, new = getattr(before, part), getattr(after, part)
        assert jax.tree.all(jax.tree.map(lambda a, b: a == b, old[other], new[other]))
        moved = jax.tree.map(lambda a, b: a != b, old[phase.name], new[phase.name])
        assert jax.tree.all(moved), part
    assert after.opt_state.keys() == {phase.name}


def test_statistics_belong_to_the_phase_that_trains_them(both):
    """Each group's batch statistics change once a step, by the mean over devices."""
    _, after, _ = both
    assert after.model_state["gen"]["seen"] == pytest.approx(X.mean())
    assert after.model_state["disc"]["seen"] == pytest.approx(X.mean())


def test_aux_goes_from_phase_to_phase(both):
    """A phase gets the aux that `after_step` returned after the phase before."""
    _, after, (metrics,) = both
    assert (metrics["disc/count_before"], metrics["gen/count_before"]) == (0, 1)
    assert after.aux["count"] == 2


def test_after_step_observes_the_whole_batch(both):
    """What is observed on all devices arrives in the order of the examples."""
    np.testing.assert_array_equal(both[1].aux["x"], X)


def test_names_of_metrics(both):
    """Several phases: phase/metric; one phase: metric. All are means over devices, and
    `loss_names` says which are losses."""
    names = {"loss", "grad_norm", "mean_x", "count_before", "random"}
    _, _, (metrics,) = both
    assert metrics.keys() == {f"{p}/{name}" for p in ("disc", "gen") for name in names}
    assert metrics["gen/mean_x"] == pytest.approx(X.mean())
    assert run(GEN, num_steps=2)[2][0].keys() == names
    assert loss_names((DISC, DISC, GEN)) == {"disc": "disc/loss", "gen": "gen/loss"}
    assert loss_names((GEN,)) == {"loss": "loss"}


def test_average_follows_after_the_update(both):
    """The first step copies the new parameters; the second moves by 1 - decay."""
    _, one, _ = both
    _, two, _ = run(DISC, GEN, num_steps=2)
    for group in ("gen", "disc"):
        first, second = one.params[group]["w"], two.params[group]["w"]
        assert one.ema[group]["w"] == pytest.approx(float(first), rel=1e-6)
        expected = DECAY * first + (1 - DECAY) * second
        assert two.ema[group]["w"] == pytest.approx(float(expected), rel=1e-6)


def test_step_and_key():
    """The step counts, the run's key stays, and every phase of every step has its own
    key: the run's, folded with the step and with the number of the phase."""
    before, after, history = run(DISC, GEN, num_steps=3)
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


@pytest.mark.parametrize("axis", [None, parallel.AXIS])
@pytest.mark.parametrize("statistics", [True, False])
def test_a_state_keeps_its_structure(statistics, axis):
    """A step returns a state of the structure, shapes and dtypes that it got, so that
    the second step is not compiled again and a checkpoint fits the first state."""
    game = Game((DISC, GEN), statistics=statistics)

    def one_device(key):
        state = states.initial(game, key)
        step = make_train_step(game, axis)
        if axis is None:
            return state, step(state, {"x": X})[0]
        batch = {"x": jnp.asarray(X)[None]}
        mapped = jax.vmap(step, (None, 0), None, axis_name=axis)
        return state, mapped(state, batch)[0]

    before, after = jax.eval_shape(one_device, jax.random.key(0))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)


def test_phases_share_out_the_batch():
    """A phase of batch_slice (i, n) sees every n-th example from the i-th on, of each
    device's shard, and phases of one name share an optimiser; by hand, with SGD."""
    first, second = (DISC._replace(batch_slice=(i, 2)) for i in (0, 1))
    _, after, (metrics,) = run(first, second)
    d = 3.0
    for part in (X[::2], X[1::2]):
        d -= RATE * 2 * 2.0 * (2.0 * d - part.mean())
    assert after.params["disc"]["w"] == pytest.approx(d, rel=1e-6)
    assert after.opt_state.keys() == {"disc"}
    seen = X[::2].mean() + X[1::2].mean()
    assert after.model_state["disc"]["seen"] == pytest.approx(seen)
    np.testing.assert_array_equal(after.aux["x"], X[1::2])
    assert metrics["disc/mean_x"] == pytest.approx(X[1::2].mean())


def test_nothing_observed():
    """A phase that observes None passes None on, and can leave aux as it is."""
    _, after, _ = run(DISC, observes=False)
    assert after.aux["count"] == 0


def test_initial_average_is_a_copy(both):
    """Average and parameters share no buffer: both can be donated."""
    state = both[0]
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.params)]
    pointers += [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.ema)]
    assert len(set(pointers)) == len(pointers)


@dataclasses.dataclass(frozen=True)
class Masked:
    """The loss is the mean of |w - x|^2 over the tokens that are not masked."""

    phases: tuple[Phase, ...]

    def init(self, key):
        return Variables({"net": jnp.array([1.0, -2.0])}, {}), ()

    def loss(self, phase, variables, aux, batch, key, step):
        square = jnp.sum((variables.params["net"][None] - batch["x"]) ** 2, axis=-1)
        mask = batch["mask"]
        weight = jnp.sum(mask)
        value = jnp.sum(mask * square) / jnp.maximum(weight, 1)
        root = jnp.sum(mask * jnp.sqrt(square)) / jnp.maximum(weight, 1)
        return Loss(value, {"root": root}, weight=weight)

    def after_step(self, variables, aux, observed):
        return variables.state, aux


def shards_of(batch, num_devices):
    """[B, ...] -> [D, B/D, ...]."""
    return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)


def test_a_masked_loss_is_exact_on_any_number_of_devices():
    """Loss, metrics, gradient norm and update are those of the whole batch on 1, 2, 4
    and 8 devices, also without an axis, however many tokens each shard has (none on the
    first of eight), for random masks."""
    method = Masked((Phase("net", ("net",), PLAIN),))
    state = states.initial(method, jax.random.key(0))
    one = jax.jit(make_train_step(method, None))
    many = jax.jit(
        jax.vmap(make_train_step(method, "i"), (None, 0), None, axis_name="i")
    )
    draws = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.9):
        x = draws.normal(size=(16, 2)).astype(np.float32)
        mask = (draws.uniform(size=16) < share).astype(np.float32)
        mask[:2], mask[2:4] = 0, 1
        w, kept = np.array([1.0, -2.0]), x[mask > 0]
        gradient = 2 * (w - kept).mean(axis=0)
        expected = {
            "loss": np.sum((w - kept) ** 2, axis=1).mean(),
            "root": np.sqrt(np.sum((w - kept) ** 2, axis=1)).mean(),
            "grad_norm": np.linalg.norm(gradient),
        }
        batch = {"x": x, "mask": mask}
        runs = [one(state, batch)]
        runs += [many(state, shards_of(batch, n)) for n in (1, 2, 4, 8)]
        for after, metrics in runs:
            assert metrics.keys() == expected.keys()
            for name, value in expected.items():
                assert metrics[name] == pytest.approx(value, rel=1e-5), name
            moved = after.params["net"] - w
            np.testing.assert_allclose(moved, -RATE * gradient, rtol=1e-5, atol=1e-6)


def test_replica_clipping_of_a_masked_loss():
    """Each device's gradient is clipped and then weighted with its tokens, by hand: a
    device with three tokens counts three times as much as one with one."""
    made = optimizers.make(
        0.1,
        0,
        "linear",
        None,
        None,
        0.0,
        0.9,
        0.99,
        1e-8,
        0.0,
        1.0,
        "per_replica",
        0.0,
        False,
    )
    optimizer = made._replace(tx=optax.sgd(1.0))
    method = Masked((Phase("net", ("net",), optimizer),))
    state = states.initial(method, jax.random.key(0))
    step = jax.vmap(make_train_step(method, "i"), (None, 0), None, axis_name="i")
    x = np.array([[9.0, 1], [8, 2], [7, 1], [1, -2.1], [5, 5], [3, 3]], np.float32)
    mask = np.array([1.0, 1, 1, 1, 0, 0], np.float32)
    after, _ = step(state, shards_of({"x": x, "mask": mask}, 2))
    w = np.array([1.0, -2.0])
    far, near = 2 * (w - x[:3]).mean(axis=0), 2 * (w - x[3])
    clipped = far / np.linalg.norm(far)  # the other one is shorter than 1
    update = (3 * clipped + near) / 4
    np.testing.assert_allclose(after.params["net"], w - update, rtol=1e-5)

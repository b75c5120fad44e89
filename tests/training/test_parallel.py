"""Laws of devices: their number changes nothing."""

import dataclasses
import functools
import pathlib
import runpy

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax import methods
from diffusion_jax.data.loader import Loader
from diffusion_jax.data.sources import ArraySource, Unpaired
from diffusion_jax.methods.base import Aux
from diffusion_jax.models.unet import ExampleDropout, time_embedding
from diffusion_jax.training import ema, optimizers, parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.optimizers import Optimizer
from diffusion_jax.training.state import Phase
from diffusion_jax.training.step import make_train_step

BATCH_SIZE = 8
NUM_STEPS = 2
ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(name):
    """The smoke run of configs/NAME.py."""
    return runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")


class Network(nn.Module):
    """Two convolutions with time and dropout between them: quick to compile."""

    @nn.compact
    def __call__(self, x, t, dropout_index=None):
        h = nn.Conv(8, (3, 3))(x)
        h += nn.Dense(8)(time_embedding(t, 8))[:, None, None, :]
        h = ExampleDropout(0.5)(nn.swish(h), dropout_index)
        return nn.Conv(1, (3, 3))(h)


@pytest.fixture
def method(digits_config):
    """Denoising diffusion with that network; the gradient is clipped, eps is large
    (Adam divides by a root that can be all rounding)."""
    digits_config.optim.update(clip_norm=0.5, eps=1e-3)
    return dataclasses.replace(methods.make(digits_config), network=Network())


@pytest.fixture
def initial(method):
    """The state before the first step."""
    make = functools.partial(states.initial, phases=method.phases, init=method.init)
    state = jax.jit(make)(jax.random.key(1))
    shape = state.extra["loss"].shape  # as after ten losses of every time
    past = np.random.default_rng(0).uniform(0.1, 2, shape).astype(np.float32)
    return state.replace(extra={"loss": past, "count": np.full(shape[0], 10, np.int32)})


@pytest.fixture(scope="module")
def batches():
    """The batches of the first steps: noise of 256 levels."""
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    source = ArraySource(images, np.zeros(50, np.int32))
    loader = Loader(source, BATCH_SIZE, seed=3)
    return [loader.batch_at(step) for step in range(NUM_STEPS)]


def split(batch, devices):
    """[B, ...] -> [D, B/D, ...]."""
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def run_on(num_devices, method, state, batches):
    """Steps on the first devices, on all of them by the program's own wrapper;
    returns the state and the metrics of each step, with a leading axis of devices."""
    step = make_train_step(method.phases, method.loss, method.remember)
    if num_devices == jax.local_device_count():
        run = functools.partial(parallel.train_step_on_devices(step), stop=False)
    else:
        devices = jax.local_devices()[:num_devices]
        run = jax.pmap(step, axis_name=parallel.AXIS, devices=devices)
    state = jax.tree.map(lambda x: jnp.stack([x] * num_devices), state)
    history = []
    for batch in batches:
        state, metrics = run(state, split(batch, num_devices))
        history.append({name: np.asarray(x) for name, x in metrics.items()})
    return state, history


def whole_batch_gradient(method, state, batch):
    """Loss and gradient by a plain jax.grad of the whole batch on one device."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)

    def loss(params):
        value, _ = method.loss("net", params, {}, state.extra, batch, key, state.step)
        return value

    return jax.jit(jax.value_and_grad(loss))(state.params)


def test_the_number_of_devices_changes_nothing(method, initial, batches):
    """Loss, gradient norm, parameters, average, and the memory from which times are
    drawn agree after two steps on 1, 2, 4 and 8 devices to float32 rounding, with
    dropout on and the gradient clipped; the norm is that of a plain gradient of the
    whole batch (Adam hides a factor n)."""
    value, gradient = whole_batch_gradient(method, initial, batches[0])
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(gradient)))
    assert norm > 0.5, "the clipping would be idle"
    one = None
    for devices in (1, 2, 4, 8):
        state, history = run_on(devices, method, initial, batches)
        np.testing.assert_allclose(history[0]["loss"], float(value), rtol=1e-5)
        np.testing.assert_allclose(history[0]["grad_norm"], norm, rtol=1e-5)
        found = jax.device_get((state.params, state.ema, state.extra))
        one = one or jax.tree.map(lambda x: x[0], found)
        assert_replicas_are(one, found)


def assert_replicas_are(expected, found):
    """Every device's copy is that tree, to float32 rounding."""
    jax.tree.map(
        lambda x, copies: np.testing.assert_allclose(
            copies, np.broadcast_to(x, copies.shape), rtol=1e-4, atol=1e-6
        ),
        expected,
        found,
    )


# A config, what is changed in its smoke run, and the side of its pictures. Images of 16
# pixels are the smallest for which DCGAN's discriminator has batch statistics, too.
# The biases before an instance norm have no gradient but rounding, which CycleGAN's
# weight of 10 would magnify.
BALANCED = {"cyclegan.cycle_weight": 1.0, "cyclegan.identity_weight": 0.5}
CRITIC = {"gan.loss": "wasserstein", "gan.gradient_penalty": 10.0}
ON_DEVICES = {
    "vae": ("fashion_mnist_vae", {}, 8),
    "dcgan": ("digits_dcgan", {}, 16),
    "wgan_gp": ("digits_gan", CRITIC | {"gan.critic_steps": 2}, 8),
    "cyclegan": ("digits_cyclegan", BALANCED, 8),
}


def family_of(name):
    """A method, its state after no step, and the batches of two steps of 16 examples:
    noise of 256 levels, in both domains; Adam's eps is large, as above."""
    config_name, changes, size = ON_DEVICES[name]
    config = load(config_name)
    config.update_from_flattened_dict(changes)
    config.data.update(image_size=size, batch_size=16)
    config.optim.update(learning_rate=0.01, decay_start=None, decay_end=None, eps=1e-2)
    if "disc_learning_rate" in config.optim:
        config.optim.disc_learning_rate = 0.02
    method = methods.make(config)
    make = functools.partial(states.initial, phases=method.phases, init=method.init)
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (2, 20, size, size, 1), np.uint8)
    source, other = (ArraySource(x, np.zeros(20, np.int32)) for x in images)
    loader = Loader(Unpaired(source, other) if name == "cyclegan" else source, 16, 3)
    batches = [loader.batch_at(step) for step in range(NUM_STEPS)]
    return method, jax.jit(make)(jax.random.key(1)), batches


@pytest.mark.parametrize("name", ON_DEVICES)
def test_the_number_of_devices_changes_no_family(name):
    """Losses, gradient norms and what else is watched in each phase, parameters, their
    averages, batch statistics and pools agree after two steps on 1, 2, 4 and 8 devices
    to float32 rounding; on one device nothing is averaged."""
    method, state, batches = family_of(name)
    one, expected = run_on(1, method, state, batches)
    kept = ("params", "ema", "model_state", "extra")
    one = {part: jax.tree.map(lambda x: x[0], getattr(one, part)) for part in kept}
    assert_moved(jax.device_get(state.params), one["params"])
    if name == "dcgan":
        assert set(one["model_state"]) == {"gen", "disc"}
    if name == "cyclegan":  # full since the first step; then pictures were swapped
        assert one["extra"]["a"]["pool"].count == 6
    for devices in (2, 4, 8):
        found, history = run_on(devices, method, state, batches)
        for step, metrics in enumerate(expected):
            for key, x in metrics.items():
                where = f"{key} of step {step} on {devices} devices"
                found_here = history[step][key]
                np.testing.assert_allclose(found_here, x[0], 1e-4, 1e-6, err_msg=where)
        for part, tree in one.items():
            assert_replicas_are(tree, jax.device_get(getattr(found, part)))


def assert_moved(before, after):
    """Every layer was trained, by 100 times more than what counts as rounding. (Biases
    may stay: a critic's last one cancels.)"""
    moved = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), before, after)
    for path, x in jax.tree_util.tree_leaves_with_path(moved):
        where = jax.tree_util.keystr(path)
        assert x > 1e-4 or not where.endswith("['kernel']"), where


def test_statistics_of_each_device(monkeypatch):
    """With sync_statistics=False the devices' means average to that of the whole batch,
    and their variances to less of it (the law of total variance), which the first
    normalised layer shows; the step runs and its state stays the same on all."""
    changes = {"gan.sync_statistics": False}
    monkeypatch.setitem(ON_DEVICES, "dcgan", ("digits_dcgan", changes, 16))
    method, state, batches = family_of("dcgan")
    first = {}
    for devices in (1, 8):
        found, _ = run_on(devices, method, state, batches[:1])
        first[devices] = jax.device_get(found.model_state["gen"]["norm0"])
    mean, var = (first[1][name][0] for name in ("mean", "var"))
    np.testing.assert_allclose(first[8]["mean"][0], mean, rtol=1e-4, atol=1e-6)
    assert np.all(first[8]["var"][0] < var)
    found, history = run_on(8, method, state, batches)
    for leaf in jax.tree.leaves(jax.device_get(found.replace(key=()))):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        assert np.all(np.isfinite(leaf))


@dataclasses.dataclass(frozen=True)
class Line:
    """Loss |w - x|^2 / 2 of a vector: the gradient of a shard is w - mean(x)."""

    phases: tuple[Phase, ...]

    def init(self, key):
        return {"net": jnp.array([1.0, -2.0])}, {}, ()

    def loss(self, phase, params, model_state, extra, batch, key, step):
        error = params["net"][None] - batch["x"]
        value = 0.5 * jnp.mean(jnp.sum(error**2, axis=-1))
        return value, Aux({}, {}, ())

    def remember(self, extra, observed):
        return extra


def test_train_step_on_devices():
    """The state given is donated, the one it was copied from is not; a request to
    stop reaches every device."""
    optimizer = Optimizer(optax.identity(), optax.sgd(1.0), ema.make_decay(0.5, False))
    line = Line((Phase("net", ("net",), optimizer),))
    make = functools.partial(states.initial, phases=line.phases, init=line.init)
    original = jax.jit(make)(jax.random.key(0))
    step = make_train_step(line.phases, line.loss, line.remember)
    run = parallel.train_step_on_devices(step)
    given = parallel.replicate(original)
    batch = parallel.shard({"x": np.ones((16, 2), np.float32)})
    state, metrics = run(given, batch, False)
    assert all(x.is_deleted() for x in jax.tree.leaves(given.params))
    assert parallel.unreplicate(metrics)["stop"] == 0
    state, metrics = run(state, batch, True)
    assert np.all(np.asarray(metrics["stop"]) > 0)
    assert parallel.unreplicate(state).step == 2
    jax.block_until_ready(original)


@pytest.mark.parametrize("clip", optimizers.CLIPS)
def test_clipping(clip):
    """ "per_replica" averages the clipped gradients of the devices, "global" clips the
    average: by hand with one shard far away and one near."""
    x = np.array([[40.0, 0], [44, 2], [1.1, -2], [1.3, -2]], np.float32)
    replica_tx, global_tx = optimizers.CLIPS[clip](optax.clip_by_global_norm(1.0))
    tx = optax.chain(global_tx, optax.sgd(1.0))
    phases = (Phase("net", ("net",), Optimizer(replica_tx, tx, ema.make_decay(0, 0))),)
    line = Line(phases)
    state = states.initial(jax.random.key(0), phases, line.init)
    after, history = run_on(2, line, state, [{"x": x}])

    w = np.array([1.0, -2.0])
    shards = [w - x[:2].mean(axis=0), w - x[2:].mean(axis=0)]

    def clipped(gradient):
        return gradient / max(1.0, np.linalg.norm(gradient))

    if clip == "per_replica":
        mean = np.mean([clipped(g) for g in shards], axis=0)
        update = mean
    else:
        mean = np.mean(shards, axis=0)
        update = clipped(mean)
    np.testing.assert_allclose(after.params["net"][0], w - update, rtol=1e-5)
    np.testing.assert_allclose(history[0]["grad_norm"], np.linalg.norm(mean), rtol=1e-5)


@pytest.mark.parametrize("length", [1, 7, 8, 13])
def test_map_on_devices_is_map(length):
    """Any number of examples: each is computed once, in order, and none is added."""
    run = parallel.map_on_devices(
        lambda tree, key, x: {"y": tree * x["a"], "u": x["b"] + jax.random.uniform(key)}
    )
    a, b = np.arange(length, dtype=np.float32), np.ones((length, 2), np.float32)
    key = jax.random.key(0)
    found = run(np.float32(3.0), key, {"a": a, "b": b})
    np.testing.assert_allclose(found["y"], 3 * a)
    np.testing.assert_allclose(found["u"], b + float(jax.random.uniform(key)))


def test_shard_keeps_the_order():
    """Device d gets the d-th contiguous part of the batch."""
    shards = parallel.shard({"x": np.arange(16)})["x"]
    assert shards.tolist() == np.arange(16).reshape(8, 2).tolist()


def test_replicate_and_first_replica_are_inverse():
    """A copy on each device; the first one is the tree again, keys and all."""
    tree = {"k": jax.random.key(3), "x": jnp.arange(4.0), "n": np.int32(5)}
    copies = parallel.replicate(tree)
    assert copies["x"].shape == (8, 4) and copies["n"].shape == (8,)
    assert len({d.id for d in copies["x"].devices()}) == 8
    back = parallel.unreplicate(copies)
    assert jax.random.key_data(back["k"]).tolist() == [0, 3]
    assert back["x"].tolist() == [0, 1, 2, 3] and back["n"] == 5


def test_uneven_batch_is_refused():
    """A batch that eight devices cannot share is refused by the name of its key."""
    parallel.check_batch_size(16, "data.batch_size")
    with pytest.raises(ValueError, match="data.batch_size = 12 .* 8 devices"):
        parallel.check_batch_size(12, "data.batch_size")


def test_coordinator_needs_the_other_two():
    """A coordinator alone is refused, in words, before it is waited for."""
    with pytest.raises(ValueError, match="--num_processes and --process_id"):
        parallel.initialize("127.0.0.1:1", None, 0)


@pytest.mark.parametrize("names,expected", [(None, False), ("a", False), ("a,b", True)])
def test_on_pod(monkeypatch, names, expected):
    """A pod is what tells of several workers."""
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    if names:
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", names)
    assert parallel.on_pod() is expected


def test_a_training_compiles_once(method, initial, batches):
    """What a step gives back is laid out as what it takes: one trace for all steps."""
    step = make_train_step(method.phases, method.loss, method.remember)
    run = parallel.train_step_on_devices(chex.assert_max_traces(step, n=1))
    state = parallel.replicate(initial)
    for batch in (*batches, *batches):
        state, _ = run(state, parallel.shard(batch), stop=False)
    assert int(parallel.unreplicate(state).step) == 2 * len(batches)

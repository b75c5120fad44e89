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
from diffusion_jax.data import paired, transforms
from diffusion_jax.data.base import ArraySource, Unpaired, image_field
from diffusion_jax.data.loader import Loader
from diffusion_jax.data.texts import padded
from diffusion_jax.data.vocabulary import build
from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.unet import time_embedding
from diffusion_jax.training import ema, optimizers, parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.optimizers import Optimizer
from diffusion_jax.training.state import Loss, Phase, Variables
from diffusion_jax.training.step import make_train_step

NUM_STEPS = 2
ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(name):
    """The smoke run of configs/NAME.py."""
    return runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"]("tiny")


class Network(nn.Module):
    """Two convolutions with time and dropout between them: quick to compile."""

    @nn.compact
    def __call__(self, x, t, cond=None, dropout_index=None):
        h = nn.Conv(8, (3, 3))(x)
        h += nn.Dense(8)(time_embedding(t, 8))[:, None, None, :]
        h = ExampleDropout(0.5)(nn.swish(h), dropout_index)
        return nn.Conv(1, (3, 3))(h)


def noise(num_examples, size):
    """A source of images of 256 levels for each of the two domains."""
    draws = np.random.default_rng(0)
    shape = num_examples, size, size, 1
    fields = {"image": image_field(shape[1:])}
    return [
        ArraySource({"image": draws.integers(0, 256, shape, np.uint8)}, fields)
        for _ in range(2)
    ]


def lines():
    """A source of 20 lines of 1 to 14 random letters, padded."""
    draws = np.random.default_rng(0)
    vocabulary = build("characters", ["abc"])
    tokens = [draws.integers(2, 5, draws.integers(1, 15)) for _ in range(20)]
    return padded(tokens, vocabulary, 16, packed=False, name="lines")


def captioned(source):
    """A source of 20 images with such lines as captions."""
    arrays = source.arrays | {"caption": lines().arrays["tokens"][:, 1:]}
    field = lines().fields["tokens"]
    caption = field._replace(shape=(field.shape[0] - 1,))
    return ArraySource(arrays, source.fields | {"caption": caption})


def pairs():
    """A source of 20 pairs of such lines."""
    tokens = lines().arrays["tokens"]
    fields = dict.fromkeys(("source", "target"), lines().fields["tokens"])
    arrays = {"source": tokens[:, 1:], "target": tokens[::-1].copy()}
    fields["source"] = fields["source"]._replace(shape=arrays["source"].shape[1:])
    return ArraySource(arrays, fields, "pairs")


@functools.cache
def initial_state(method):
    """The state before the first step."""
    make = functools.partial(states.initial, method)
    return jax.jit(make)(jax.random.key(1))


@pytest.fixture(scope="module")
def ddpm():
    """Denoising diffusion with that network, its state before the first step and the
    batches of the first steps. The gradient is clipped, and eps is large, since Adam
    divides by a root that can be all rounding."""
    config = load("digits")
    config.diffusion.timestep_sampler = "second_moment"  # it has a memory
    config.optim.update(warmup_steps=0, clip_norm=0.5, eps=1e-3)
    source, _ = noise(50, 8)
    method = methods.make(config, source.fields)
    method = dataclasses.replace(method, network=Network())
    state = initial_state(method)
    shape = state.aux["loss"].shape  # as after ten losses of every time
    past = np.random.default_rng(0).uniform(0.1, 2, shape).astype(np.float32)
    state = state.replace(aux={"loss": past, "count": np.full(shape[0], 10, np.int32)})
    loader = Loader(source, 8, seed=3)
    return method, state, [loader.batch_at(step) for step in range(NUM_STEPS)]


def split(batch, devices):
    """[B, ...] -> [D, B/D, ...]."""
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


@functools.cache
def step_on(num_devices, method):
    """The step on the first devices, on all of them by the program's own wrapper."""
    step = make_train_step(method, parallel.AXIS)
    if num_devices == jax.local_device_count():
        chex.clear_trace_counter()
        # One trace: a step returns arrays with the sharding that it takes.
        step = chex.assert_max_traces(step, n=1)
        return functools.partial(parallel.train_step_on_devices(step), stop=False)
    devices = jax.local_devices()[:num_devices]
    axes = {"in_axes": (None, 0), "out_axes": (None, None)}
    return jax.pmap(step, parallel.AXIS, devices=devices, **axes)


def run_on(num_devices, method, state, batches):
    """Returns the state after a step for each batch, and the metrics of each step."""
    history = []
    if num_devices == jax.local_device_count():
        state = parallel.replicate(state)  # it will be donated
    for batch in batches:
        state, metrics = step_on(num_devices, method)(state, split(batch, num_devices))
        history.append({name: float(x) for name, x in metrics.items()})
    return state, history


def whole_batch_gradient(method, state, batch):
    """Loss and gradient by a plain jax.grad of the whole batch on one device."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
    batch = batch | {"image": transforms.to_float(batch["image"])}

    def loss(params):
        variables = Variables(params, {})
        return method.loss("net", variables, state.aux, batch, key, state.step).value

    return jax.jit(jax.value_and_grad(loss))(state.params)


def assert_replicas_are(expected, found):
    """Every device's copy is that tree, to float32 rounding."""

    def check(x, array):
        copies = [np.asarray(copy.data) for copy in array.addressable_shards]
        for copy in copies:
            np.testing.assert_array_equal(copy, copies[0])
        np.testing.assert_allclose(copies[0], x, rtol=1e-4, atol=1e-6)

    jax.tree.map(check, expected, found)


def test_the_number_of_devices_changes_nothing(ddpm):
    """Loss, gradient norm, parameters, average, and the memory from which timesteps are
    drawn agree after two steps on 1, 2, 4 and 8 devices to float32 rounding, with
    dropout on and the gradient clipped; the norm is that of a plain gradient of the
    whole batch (Adam hides a factor n)."""
    method, initial, batches = ddpm
    value, gradient = whole_batch_gradient(method, initial, batches[0])
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(gradient)))
    assert norm > 0.5, "the clipping would be idle"
    one = None
    for devices in (1, 2, 4, 8):
        state, history = run_on(devices, method, initial, batches)
        assert history[0]["loss"] == pytest.approx(float(value), rel=1e-5)
        assert history[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
        found = state.params, state.ema, state.aux
        one = one or jax.device_get(found)
        assert_replicas_are(one, found)


# A config, what is changed in its smoke run, and the side of its images. Images of 16
# pixels are the smallest for which DCGAN's discriminator has batch statistics, too.
# The biases before an instance norm have no gradient but rounding, which CycleGAN's
# weight of 10 would magnify.
BALANCED = {"cyclegan.cycle_weight": 1.0, "cyclegan.identity_weight": 0.5}
CRITIC = {"gan.loss": "wasserstein", "gan.gradient_penalty": 10.0}
ON_DEVICES = {
    "vae": ("fashion_mnist_vae", {}, 8),
    "dvae": ("digits_dvae", {}, 8),
    "vqvae": ("digits_dvae", {"model.name": "vq"}, 8),
    "dalle": ("digits_dalle", {"dalle.cond_dropout": 0.5, "optim.eps": 1e-4}, 8),
    "captions": ("digits_captions", {"model.dropout": 0.3}, 8),
    "cascade": ("digits_cascade", {"upsampler.model.dropout": 0.3}, 8),
    "contrastive": ("digits_contrastive", {}, 8),
    "dcgan": ("digits_dcgan", {}, 16),
    "dcgan_unsynchronised": ("digits_dcgan", {"gan.sync_statistics": False}, 16),
    "wgan_gp": ("digits_gan", CRITIC | {"gan.critic_steps": 2}, 8),
    "cyclegan": ("digits_cyclegan", BALANCED, 8),
    "pix2pix": ("digits_pix2pix", {"pix2pix.l1_weight": 1.0}, 8),
    "language_model": ("python_docs_gru", {"model.dropout": 0.3}, 8),
    "seq2seq": ("reverse_attention", {"model.dropout": 0.3}, 8),
}


@functools.cache
def family_of(name):
    """A method and the batches of two steps of 16 examples: noise of 256 levels in both
    domains. Adam's eps is large, as above."""
    config_name, changes, size = ON_DEVICES[name]
    config = load(config_name)
    config.data.batch_size = 16
    config.optim.update(learning_rate=0.01, decay_start=None, decay_end=None, eps=1e-2)
    config.update_from_flattened_dict(changes)
    if "disc_learning_rate" in config.optim:
        config.optim.disc_learning_rate = 0.02
    a, b = noise(20, size)
    special = {
        "cyclegan": Unpaired(a, b),
        "pix2pix": paired.join(a, b, "pairs"),
        "language_model": lines(),
        "seq2seq": pairs(),
        **dict.fromkeys(("dalle", "captions", "cascade", "contrastive"), captioned(a)),
    }
    source = special.get(name, a)
    method = methods.make(config, source.fields)
    loader = Loader(source, 16, seed=3)
    batches = [loader.batch_at(step) for step in range(NUM_STEPS)]
    return method, batches


@pytest.mark.parametrize("name", [x for x in ON_DEVICES if x != "dcgan_unsynchronised"])
def test_the_number_of_devices_changes_no_family(name):
    """Losses, gradient norms and all other metrics of each phase, parameters, their
    averages, batch statistics and pools agree after two steps on 1, 2, 4 and 8 devices
    to float32 rounding; on one device nothing is averaged."""
    method, batches = family_of(name)
    initial = initial_state(method)
    # A fresh U-Net gives its text encoder no gradient, and the attention of a fresh
    # encoder is so uniform that its queries and keys have nearly none.
    if name in ("captions", "cascade", "contrastive"):
        params = jax.tree.map(spread, initial.params)
        initial = initial.replace(params=params, ema=jax.tree.map(jnp.copy, params))
    one, expected = run_on(1, method, initial, batches)
    parts = ("params", "ema", "model_state", "aux")
    one = {part: jax.device_get(getattr(one, part)) for part in parts}
    for phase in method.phases:
        for group in phase.trains:
            before, after = initial.params[group], one["params"][group]
            assert_moved(jax.device_get(before), after)
    if name == "dcgan":
        assert set(one["model_state"]) == {"gen", "disc"}
    if name == "cyclegan":  # full since the first step; then images were swapped
        assert one["aux"]["a"]["pool"].count == 6
    for devices in (2, 4, 8):
        found, history = run_on(devices, method, initial, batches)
        for step, metrics in enumerate(expected):
            for key, x in metrics.items():
                where = f"{key} of step {step} on {devices} devices"
                value = pytest.approx(x, rel=1e-4, abs=1e-6)
                assert history[step][key] == value, where
        for part, tree in one.items():
            assert_replicas_are(tree, getattr(found, part))


def spread(x):
    """Adds noise, so that no parameter is zero or tiny."""
    return x + 0.3 * jax.random.normal(jax.random.key(0), x.shape)


def assert_moved(before, after):
    """Every layer was trained, by 100 times more than what counts as rounding. (Biases
    may stay: a critic's last one cancels.)"""
    moved = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), before, after)
    for path, x in jax.tree_util.tree_leaves_with_path(moved):
        where = jax.tree_util.keystr(path)
        assert x > 1e-4 or not where.endswith("['kernel']"), where


def test_statistics_of_each_device():
    """With sync_statistics=False the devices' means average to that of the whole batch,
    and their variances to less than its variance (the law of total variance), which the
    first normalised layer shows; the step runs and its state stays the same on all."""
    method, batches = family_of("dcgan")
    initial = initial_state(method)
    whole, _ = run_on(1, method, initial, batches[:1])
    method, _ = family_of("dcgan_unsynchronised")
    state, _ = run_on(8, method, initial, batches[:1])
    whole, each = (x.model_state["gen"]["norm0"] for x in (whole, state))
    np.testing.assert_allclose(each["mean"], whole["mean"], rtol=1e-4, atol=1e-6)
    assert np.all(np.asarray(each["var"]) < np.asarray(whole["var"]))
    state = state.replace(key=())
    assert_replicas_are(jax.device_get(state), state)


@dataclasses.dataclass(frozen=True)
class Line:
    """Loss |w - x|^2 / 2 of a vector: the gradient of a shard is w - mean(x)."""

    phases: tuple[Phase, ...]

    def init(self, key):
        return Variables({"net": jnp.array([1.0, -2.0])}, {}), ()

    def loss(self, phase, variables, aux, batch, key, step):
        error = variables.params["net"][None] - batch["x"]
        return Loss(0.5 * jnp.mean(jnp.sum(error**2, axis=-1)))

    def after_step(self, variables, aux, observed):
        return variables.state, aux


def test_train_step_on_devices():
    """The state that is passed in is donated, the one it was copied from is not; a
    request to stop reaches every device; one trace serves all steps."""
    optimizer = Optimizer(optax.identity(), optax.sgd(1.0), ema.make_decay(0.5, False))
    line = Line((Phase("net", ("net",), optimizer),))
    original = initial_state(line)
    step = chex.assert_max_traces(make_train_step(line, parallel.AXIS), n=1)
    run = parallel.train_step_on_devices(step)
    given = parallel.replicate(original)
    batch = parallel.shard({"x": np.ones((16, 2), np.float32)})
    state, metrics = run(given, batch, False)
    assert all(x.is_deleted() for x in jax.tree.leaves(given.params))
    assert float(metrics["stop"]) == 0
    state, metrics = run(state, batch, True)
    assert all(copy.data > 0 for copy in metrics["stop"].addressable_shards)
    assert int(state.step) == 2
    jax.block_until_ready(original)
    np.testing.assert_array_equal(original.params["net"], [1.0, -2.0])


def test_one_trace_for_each_length():
    """Each length of the batches has its own program, traced once."""

    @chex.assert_max_traces(n=2)
    def step(state, batch):
        return state + batch["x"].shape[-1], {}

    run = parallel.train_step_on_devices(step)
    state = parallel.replicate(jnp.zeros(()))
    for length in (3, 5, 3, 5):
        state, _ = run(state, parallel.shard({"x": np.ones((8, length))}), 0)
    assert state == 3 + 5 + 3 + 5


@pytest.mark.parametrize("clip", ["per_replica", "global"])
def test_clipping(clip):
    """ "per_replica" averages the clipped gradients of the devices, "global" clips the
    average: by hand with one shard far away and one near."""
    x = np.array([[40.0, 0], [44, 2], [1.1, -2], [1.3, -2]], np.float32)
    replica_clip, global_clip = (make(1.0) for make in optimizers.CLIPS[clip])
    tx = optax.chain(global_clip, optax.sgd(1.0))
    optimizer = Optimizer(replica_clip, tx, ema.make_decay(0, False))
    line = Line((Phase("net", ("net",), optimizer),))
    after, (metrics,) = run_on(2, line, initial_state(line), [{"x": x}])

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
    np.testing.assert_allclose(after.params["net"], w - update, rtol=1e-5)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(mean), rel=1e-5)


def test_map_on_devices_is_map():
    """Each example is computed once, in order, with the variables and the key."""
    run = parallel.map_on_devices(
        lambda variables, batch, key: {
            "y": variables["w"] * batch["a"],
            "u": batch["b"] + jax.random.uniform(key),
        }
    )
    key = jax.random.key(0)
    for variables in ({"w": np.float32(3.0)}, parallel.replicate({"w": np.float32(3)})):
        a, b = np.arange(24, dtype=np.float32), np.ones((24, 2), np.float32)
        found = run(variables, {"a": a, "b": b}, key)
        assert all(isinstance(x, np.ndarray) for x in found.values())
        np.testing.assert_allclose(found["y"], 3 * a)
        np.testing.assert_allclose(found["u"], b + float(jax.random.uniform(key)))


def test_rows_of_processes():
    """One process has all the rows, and a batch is rounded up to all devices."""
    x = np.arange(6)
    np.testing.assert_array_equal(parallel.local_rows(x), x)
    np.testing.assert_array_equal(parallel.all_rows({"x": x})["x"], x)
    assert [parallel.round_up(n) for n in (1, 8, 9)] == [8, 8, 16]


def test_no_axis_is_the_identity():
    """Without an axis nothing is averaged or gathered."""
    tree = {"x": np.arange(3.0)}
    assert parallel.mean(tree, None) is tree
    assert parallel.gather(tree, None) is tree


def test_shard_keeps_the_order():
    """Device d gets the d-th contiguous part of the batch."""
    shards = parallel.shard({"x": np.arange(16)})["x"]
    assert shards.tolist() == np.arange(16).reshape(8, 2).tolist()


def numbered_batches(num, calls):
    """Batches whose entries are their number; `calls` records what was fetched."""
    for step in range(num):
        calls.append(step)
        yield (
            step,
            {
                "x": np.full((16, 3), step, np.uint8),
                "index": np.arange(16, dtype=np.int32),
            },
        )


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_to_devices_keeps_the_batches(monkeypatch, backend):
    """The same batches in the same order, split as by `shard`, in their dtype, whether
    they are copied or not; the step is compiled once, and if they are, it copies
    nothing."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    copied = backend == "gpu"
    chex.clear_trace_counter()
    step = chex.assert_max_traces(lambda w, batch: batch["x"].sum() * w, n=1)
    run = jax.pmap(step, parallel.AXIS, in_axes=(None, 0))
    w = parallel.replicate(jnp.ones(()))
    steps = []
    for step, batch in parallel.to_devices(numbered_batches(5, [])):
        expected = parallel.shard(dict(numbered_batches(5, []))[step])
        for name, x in batch.items():
            assert isinstance(x, jax.Array) == copied
            assert x.dtype == expected[name].dtype
            np.testing.assert_array_equal(x, expected[name])
            if copied:
                places = {
                    part.device.id: part.index[0] for part in x.addressable_shards
                }
                assert places == {i: slice(i, i + 1) for i in range(8)}
        with jax.transfer_guard("disallow" if copied else "allow"):
            run(w, batch)
        steps.append(step)
    assert steps == list(range(5))


def test_to_devices_is_one_batch_ahead(monkeypatch):
    """When a batch is used the next one has been copied, and no further one; an empty
    stream stays empty."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    calls = []
    stream = parallel.to_devices(numbered_batches(9, calls))
    for used in range(3):
        assert next(stream)[0] == used
        assert calls == list(range(used + 2))
    assert [step for step, _ in stream] == list(range(3, 9))
    assert list(parallel.to_devices(iter(()))) == []


def test_replicate():
    """A whole copy on each device, keys and all, which shares no buffer with the
    argument and can be read without a gather."""
    tree = {"k": jax.random.key(3), "x": jnp.arange(4.0), "n": np.int32(5)}
    copies = parallel.replicate(tree)
    assert copies["x"].shape == (4,) and copies["x"].is_fully_replicated
    assert len({d.id for d in copies["x"].devices()}) == 8
    assert jax.random.key_data(copies["k"]).tolist() == [0, 3]
    assert copies["x"].tolist() == [0, 1, 2, 3] and int(copies["n"]) == 5
    again = parallel.replicate(copies)
    buffers = {
        copy.data.unsafe_buffer_pointer()
        for array in (tree["x"], copies["x"], again["x"])
        for copy in array.addressable_shards
    }
    assert len(buffers) == 1 + 8 + 8
    np.testing.assert_array_equal(parallel.to_host(copies["x"]), tree["x"])


def test_uneven_batch_is_refused():
    """A batch that eight devices cannot share is refused by the name of its key, and so
    is one whose shares cannot be split further."""
    parallel.check_batch_size(16, "data.batch_size", 2)
    with pytest.raises(ValueError, match="data.batch_size = 12 .* 8 devices"):
        parallel.check_batch_size(12, "data.batch_size")
    with pytest.raises(ValueError, match="8 devices in 2 parts.* multiple of 16"):
        parallel.check_batch_size(24, "data.batch_size", 2)

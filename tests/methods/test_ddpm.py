"""Laws of denoising diffusion as a family: its loss, its VLB and its samples.

Most tests run op by op: their programs are small, and compiling each of them would take
longer than running all. Compiled programs are tested wherever something is trained.
"""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import config_of, fields_of

from diffusion_jax import inference, methods, prng, task_runner
from diffusion_jax.data import loader, sources
from diffusion_jax.data.base import Range
from diffusion_jax.diffusion import denoiser, guidance, losses, process, samplers
from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.unet import time_embedding
from diffusion_jax.training import state as states
from diffusion_jax.training.state import Variables
from diffusion_jax.training.step import make_train_step

KEY = jax.random.key(11)
STEP = jnp.int32(0)
NONE = Variables({"net": 0.0}, {})  # of a network without parameters


class Network(nn.Module):
    """Dense layers over all pixels: quick to compile, and able to overfit."""

    width: int = 16
    depth: int = 1
    dropout: float = 0.0
    channels: int = 1

    @nn.compact
    def __call__(self, x, t, cond, dropout_index=None):
        h = x.reshape(x.shape[0], -1)
        h = jnp.concatenate([h, time_embedding(t, 16)], axis=1)
        for _ in range(self.depth):
            h = nn.swish(nn.Dense(self.width)(h))
            h = ExampleDropout(self.dropout)(h, dropout_index)
        h = nn.Dense(x[0, ..., 0].size * self.channels)(h)
        return h.reshape(*x.shape[:-1], self.channels)


class Stub:
    """A network with one parameter w that outputs a function of (w, x, label), and
    keeps its last input."""

    def __init__(self, answer=lambda w, x, label: 0.3 * x):
        self.answer = answer
        self.x_t = self.t = self.label = None

    def apply(self, variables, x, t, cond, dropout_index=None, rngs=None):
        self.x_t, self.t, self.label = x, t, cond.get("label")
        return self.answer(variables["params"], x, self.label)


def digits_config(**values):
    """The config digits:tiny with 12 timesteps; keys of values are GROUP__NAME."""
    defaults = {
        "diffusion__num_timesteps": 12,
        "diffusion__schedule": "linear",
        "diffusion__prediction": "eps",
        "sample__spacing": "leading",
        "sample__sampler": "ancestral",
        "eval__num_terms": 11,
    }
    return config_of("digits", **defaults | values)


@functools.cache
def make_method(network=None, **values):
    """Denoising diffusion with that network."""
    config = digits_config(**values)
    method = methods.make(config, fields_of(config))
    network = network or Network(channels=2 if method.learned_variance else 1)
    return dataclasses.replace(method, network=network)


def task_of(method, name, **options):
    """A task with the options of the config above and these."""
    return methods.make_task(digits_config(), method, name, **options)


@functools.cache
def all_digits():
    source = sources.make("digits", "train", 8, 1)
    return loader.to_batch(source, np.arange(len(source)))


def digits(n, first=0):
    """A batch of the first n digits, with indices from `first`."""
    batch = take(all_digits(), slice(n))
    return batch | {"index": np.arange(first, first + n, dtype=np.int32)}


@functools.cache
def variables_of(method):
    """Parameters larger than at initialisation, so that outputs are not nearly 0."""
    if isinstance(method.network, Stub):
        return NONE
    variables, _ = method.init(KEY)
    return jax.tree.map(lambda x: 1.5 * x + 0.05, variables)


def loss_of(method, batch, key=KEY, aux=()):
    """The mean loss of a batch."""
    loss = method.loss("net", variables_of(method), aux, batch, key, STEP)
    return float(loss.value)


def run(task, batch, key=KEY, variables=NONE):
    """The outputs of a task, computed op by op."""
    with jax.disable_jit():
        return jax.device_get(task.run(variables, batch, key))


def sample_of(method, batch, variables=None, **options):
    """Samples for a batch, or for indices."""
    if not isinstance(batch, dict):
        batch = {"index": np.asarray(batch, np.int32)}
    variables = variables or variables_of(method)
    return run(task_of(method, "sample", **options), batch, variables=variables)


def vlb_of(method, batch, **options):
    """The terms of the VLB."""
    task = task_of(method, "vlb", **options)
    return jax.device_get(jax.jit(task.run)(variables_of(method), batch, KEY))


def take(batch, places):
    """Some examples of a batch."""
    return jax.tree.map(lambda x: x[places], batch)


def noised(batch, key=KEY):
    """x_t, the time given to the network, and the loss."""
    spy = Stub()
    loss = loss_of(make_method(spy), batch, key)
    return np.asarray(spy.x_t), np.asarray(spy.t), loss


# The loss.


def test_loss_is_a_mean_over_shards():
    """The mean of the shards' losses is the loss of the whole batch, with dropout."""
    method, batch = make_method(Network(dropout=0.5)), digits(64)
    shards = [loss_of(method, take(batch, slice(i, i + 8))) for i in range(0, 64, 8)]
    assert np.mean(shards) == pytest.approx(loss_of(method, batch), rel=1e-5)


def test_loss_does_not_depend_on_the_order():
    """Permuting the examples together with their indices changes nothing."""
    method, batch = make_method(Network(dropout=0.5)), digits(64)
    order = np.random.default_rng(0).permutation(64)
    expected = loss_of(method, batch)
    assert loss_of(method, take(batch, order)) == pytest.approx(expected, rel=1e-5)
    moved = batch | {"index": batch["index"][order]}
    assert abs(loss_of(method, moved) - expected) > 1e-4


def test_noise_belongs_to_key_and_index():
    """Time and noise of an example depend only on the key and its global index."""
    batch = digits(64, first=100)
    x_t, t, _ = noised(batch)
    for places in (np.arange(5, 13), np.arange(12, 4, -1)):
        found_x_t, found_t, _ = noised(take(batch, places))
        np.testing.assert_array_equal(found_x_t, x_t[places])
        np.testing.assert_array_equal(found_t, t[places])
    other_x_t, _, _ = noised(batch | {"index": batch["index"] + 64})
    assert np.all(np.any(other_x_t != x_t, axis=(1, 2, 3)))
    other_x_t, _, _ = noised(batch, key=jax.random.key(12))
    assert np.all(np.any(other_x_t != x_t, axis=(1, 2, 3)))


def test_simple_loss_of_eps_by_hand():
    """Equation 14: the mean of (eps - output)^2, with alpha_bar in float64; the network
    receives all times in 0..T-1."""
    batch = digits(1000)
    x_t, t, loss = noised(batch)
    assert set(t) == set(range(12))
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 12))[t][:, None, None, None]
    eps = (x_t - np.sqrt(alpha_bar) * batch["image"]) / np.sqrt(1 - alpha_bar)
    assert abs(eps.mean()) < 0.05 and abs(eps.std() - 1) < 0.05
    assert loss == pytest.approx(np.mean((eps - 0.3 * x_t) ** 2), rel=1e-3)


@pytest.mark.slow
def test_vlb_as_a_loss_is_the_vlb():
    """The mean over all indices of the loss "vlb", times T, is near the VLB without the
    prior, in bits/dim (the loss draws one of the T terms)."""
    batch = digits(4)
    repeated = {
        "index": np.arange(4 * 500, dtype=np.int32),
        "image": np.tile(batch["image"], (500, 1, 1, 1)),
    }
    method = make_method(diffusion__loss="vlb")
    found = 12 * loss_of(method, repeated)
    unclipped = [
        sum(vlb_terms(method, batch, jax.random.key(i), clip=False)).mean()
        for i in range(30)
    ]
    expected = np.mean(unclipped) / (64 * np.log(2))
    assert found == pytest.approx(expected, rel=0.1)


COMBINATIONS = [
    *((prediction, "simple", "fixedsmall") for prediction in process.PREDICTIONS),
    *(("v", loss, "fixedlarge") for loss in ("vlb", "continuous", "min_snr", "edm")),
    *(("v", loss, "learned_range") for loss in losses.LEARN_VARIANCE),
    ("eps", "vlb", "fixedsmall"),
    ("mu", "vlb", "learned"),
]


@pytest.mark.parametrize("prediction,loss,variance", COMBINATIONS)
def test_losses_and_gradients_are_finite(prediction, loss, variance):
    """They are at all times, for every prediction, loss and variance."""
    method = make_method(
        diffusion__prediction=prediction,
        diffusion__loss=loss,
        diffusion__variance=variance,
    )
    variables, batch = variables_of(method), digits(64)  # all 12 times

    def loss_of(variables):
        return method.loss("net", variables, (), batch, KEY, STEP).value

    value, grads = jax.value_and_grad(loss_of)(variables)
    assert np.isfinite(value) and value > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert any(np.any(x != 0) for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("prediction", ["x0", "v", "mu"])
def test_no_signal_at_the_end_is_finite(prediction):
    """jsd leaves no signal at T: predictions that need none can still be trained and
    sampled."""
    method = make_method(diffusion__schedule="jsd", diffusion__prediction=prediction)
    assert np.isfinite(loss_of(method, digits(64)))
    assert np.isfinite(sample_of(method, range(8), num_steps=5)["image"]).all()


# The variational lower bound.


def vlb_terms(method, batch, key, clip=True):
    """The sum of the terms t >= 2, and the term t = 1, [B] each, one time per call."""
    params, x_0 = variables_of(method).params["net"], jnp.asarray(batch["image"])
    keys = prng.example_keys(key, batch["index"])

    def network(x_t, t, self_cond):
        return method.network.apply({"params": params}, x_t, t, {})

    denoise = denoiser.from_network(network, method.prediction, method.schedule)
    denoise = guidance.static_thresholding(denoise) if clip else denoise

    def term(t):
        noise = prng.normal(prng.fold_in(keys, t), x_0.shape[1:])
        x_t = process.q_sample(x_0, method.schedule(t), noise)
        log_variance = losses.reverse_log_variance(method.variance, method.schedule, t)
        t, log_variance = (jnp.full(len(x_0), v) for v in (t, log_variance))
        x_0_hat = denoise(x_t, t, None).x_0
        return losses.vlb_term(x_0, x_t, x_0_hat, t, method.schedule, log_variance)

    terms = np.stack([term(jnp.int32(t)) for t in range(1, method.num_timesteps + 1)])
    return terms[1:].sum(axis=0), terms[0]


@pytest.mark.parametrize("variance", process.VARIANCES)
def test_all_terms_are_the_plain_sum(variance):
    """With num_terms = T - 1 the VLB is the sum over all times, on the same noise; its
    prior is the closed form of KL(N(a x_0, 1 - a^2) || N(0, 1))."""
    method, batch = make_method(diffusion__variance=variance), digits(8)
    found = vlb_of(method, batch)
    transitions, decoder = vlb_terms(method, batch, KEY)
    np.testing.assert_allclose(found["transitions"], transitions, rtol=1e-4)
    np.testing.assert_allclose(found["decoder"], decoder, rtol=1e-4)
    a2 = np.prod(1 - np.linspace(1e-4, 0.02, 12))
    prior = 0.5 * (a2 * batch["image"] ** 2 + (1 - a2) - 1 - np.log(1 - a2))
    np.testing.assert_allclose(found["prior"], prior.sum(axis=(1, 2, 3)), rtol=1e-4)


def test_every_time_once_at_both_ends_of_the_strata(monkeypatch):
    """With all terms no time is left out or doubled, wherever in its stratum a time is
    drawn: float32 would round 998 + (1 - 2^-24) up to 999."""
    method = make_method(Stub(), diffusion__num_timesteps=1000)
    task = task_of(method, "vlb", num_terms=999)

    @jax.jit
    def times(u):
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape: u)
        return task.run(NONE, digits(1), KEY)["time"][0]

    for u in (0.0, 1 - 2**-24):
        np.testing.assert_array_equal(times(u), np.arange(2, 1001))


def test_fewer_terms_are_unbiased():
    """The mean over 600 keys of k drawn terms, scaled, is that of all of them, within 4
    standard errors; T - 1 = 11 is no multiple of k = 4."""
    method, batch = make_method(Stub()), digits(2)

    def mean_and_error(num_terms):
        task = task_of(method, "vlb", num_terms=num_terms)
        keys = jax.random.split(jax.random.key(num_terms), 600)
        nats = jax.jit(jax.vmap(lambda key: task.run(NONE, batch, key)["transitions"]))(
            keys
        )
        return np.mean(nats), np.std(np.mean(nats, axis=1)) / np.sqrt(600)

    expected, other_error = mean_and_error(11)
    for num_terms in (1, 4):
        found, error = mean_and_error(num_terms)
        assert abs(found - expected) < 4 * np.hypot(error, other_error)
        assert np.hypot(error, other_error) < 0.05 * expected


def test_vlb_of_an_image_is_its_own():
    """It depends on the key, the image and its index, not on the batch around it."""
    method, batch = make_method(), digits(8)
    places = np.array([4, 2, 4, 4, 4, 0, 4, 4])
    whole, part = (vlb_of(method, x, num_terms=3) for x in (batch, take(batch, places)))
    chex.assert_trees_all_close(part, take(whole, places), rtol=1e-5)


# Samples.


def test_sample_i_depends_on_seed_and_i():
    """Sample i depends on seed and i, not on how many are drawn, or how many at once;
    the last frame is the sample."""
    method = make_method(Stub())
    task = task_of(method, "sample", num_frames=2, num_steps=5)

    def draw(size, n, seed):
        stream = inference.make_stream(task, size, seed)(NONE, Range(n), n)
        return inference.collect(stream, "index", "image", "frames")

    draws = [draw(16, 20, seed=4), draw(3, 4, seed=4)]
    for drawn, n in zip(draws, (20, 4)):
        assert drawn["index"].tolist() == list(range(n))
        expected = draws[0]["image"][:n]
        np.testing.assert_allclose(drawn["image"], expected, atol=1e-5)
        assert drawn["frames"].shape == (n, 2, 8, 8, 1)
        np.testing.assert_array_equal(drawn["frames"][:, -1], drawn["image"])
    samples = draws[0]["image"]
    assert len(np.unique(samples.reshape(20, -1).round(4), axis=0)) == 20
    other = draw(16, 8, seed=5)["image"]
    assert np.abs(other - samples[:8]).max() > 0.01


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_samples_do_not_depend_on_their_place(sampler):
    """Whatever the sampler, sample i is the same among others and at another place."""
    method, options = make_method(Stub()), {"sampler": sampler, "num_steps": 3}
    drawn, moved = (
        sample_of(method, index, **options)["image"]
        for index in (range(8), [3, 1, 7, 0, 12, 13, 14, 15])
    )
    assert np.isfinite(drawn).all()
    assert len(np.unique(drawn.reshape(8, -1).round(4), axis=0)) == 8
    np.testing.assert_allclose(moved[:4], drawn[[3, 1, 7, 0]], rtol=1e-5)


def test_samples_use_the_average():
    """Averaged parameters are used for sampling, not the last ones."""
    method = make_method()
    state = states.initial(method, KEY)
    state = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    variables = method.for_inference(state.averaged)
    drawn = sample_of(method, range(8), variables, num_steps=5)["image"]
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() <= 1


def test_eight_digits_are_overfitted():
    """600 steps on eight digits: the loss falls to a quarter of the best constant's
    (1); half of the samples lie within .5 (root mean square, in [-1, 1]) of one of the
    digits, which are .76 apart; at least four of the eight are reached."""
    method = make_method(
        Network(width=256, depth=2),
        diffusion__num_timesteps=100,
        diffusion__schedule="cosine",
        optim__learning_rate=3e-3,
        optim__decay_end=600,
        optim__clip_norm=1.0,
        optim__ema_decay=0.99,
    )
    batch = digits(8)
    images = jnp.tile(batch["image"], (8, 1, 1, 1))
    train_step = make_train_step(method, axis=None)

    sampling = task_of(method, "sample", num_steps=50)

    def step(state, i):
        index = 64 * i + jnp.arange(64)
        state, metrics = train_step(state, {"index": index, "image": images})
        return state, metrics["loss"]

    @jax.jit
    def train_and_sample(key):
        state = states.initial(method, key)
        state, history = jax.lax.scan(step, state, jnp.arange(600))
        drawn = sampling.run(state.averaged, {"index": jnp.arange(32)}, key)
        return history, drawn["image"]

    history, drawn = map(np.asarray, train_and_sample(KEY))
    assert np.mean(history[:5]) > 0.8
    assert np.mean(history[-50:]) < 0.25
    distances = np.sqrt(
        np.mean((drawn[:, None] - batch["image"][None]) ** 2, axis=(2, 3, 4))
    )
    assert np.median(distances.min(axis=1)) < 0.5
    assert len(set(distances.argmin(axis=1))) >= 4


# Classes, guidance, self-conditioning and learned variances.


CLASSES = {"model__num_classes": 10}
GUIDED = {**CLASSES, "diffusion__cond_dropout": 0.1}


def test_labels_are_dropped():
    """A share cond_dropout of the examples gets "none", num_classes, instead of its
    label; which ones depends on key and index."""
    network = Stub()
    method = make_method(network, **CLASSES, diffusion__cond_dropout=0.2)
    batch, labels = digits(1000), []
    places = np.random.default_rng(0).permutation(1000)
    for part in (batch, take(batch, places)):
        loss_of(method, part)
        labels.append(np.asarray(network.label))
    dropped = labels[0] == 10
    assert abs(dropped.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 1000)
    np.testing.assert_array_equal(labels[0], np.where(dropped, 10, batch["label"]))
    np.testing.assert_array_equal(labels[1], labels[0][places])


def test_guidance_is_a_mixture_of_networks():
    """Samples with guidance w are those of a network with the output (1 - w) f(none) +
    w f(class)."""

    def answer(w, x, label):
        return 0.3 * x + 0.05 * label[:, None, None, None]

    def mixed(w, x, label):
        none, label = answer(w, x, jnp.full_like(label, 10)), answer(w, x, label)
        return -1.5 * none + 2.5 * label

    batch = {"index": np.arange(8), "label": np.arange(2, 10)}
    guided, expected = (
        sample_of(
            make_method(Stub(network), **GUIDED),
            batch,
            guidance_scale=scale,
            thresholding="none",
        )["image"]
        for network, scale in ((answer, 2.5), (mixed, 1.0))
    )
    np.testing.assert_allclose(guided, expected, rtol=1e-4, atol=1e-4)


def test_samples_come_with_their_labels():
    """Every sample comes with its label: all classes in turn, or sample.label."""
    classes = Stub(lambda w, x, label: 0 * x + 0.1 * label[:, None, None, None])
    values = {**CLASSES, "diffusion__prediction": "x0", "sample__num_examples": 12}
    method = make_method(classes, **values)
    for label, expected in ((-1, np.arange(12) % 10), (3, np.full(12, 3))):
        config = digits_config(**values, sample__label=label, sample__num_steps=2)
        drawn = task_runner.make(config, method, "sample").run(NONE)
        np.testing.assert_array_equal(drawn["label"], expected)
        np.testing.assert_allclose(drawn["image"][:, 0, 0, 0], 0.1 * expected, 1e-5)


def test_names_of_classes(caplog):
    """Samples of one class say its name, and a number that is none gets the list."""
    caplog.set_level("INFO")
    method, names = make_method(None, **CLASSES), tuple("abcdefghij")

    def make(label):
        config = digits_config(**CLASSES, sample__label=label)
        return task_runner.make(config, method, "sample", class_names=names)

    assert make(3).fields["label"].names == names
    assert "Class 3 is d." in caplog.messages
    with pytest.raises(ValueError, match="one of the 10 classes .0 a, 1 b, .*9 j.;"):
        make(10)


def test_network_of_a_config_is_conditioned_on_classes():
    """Its parameters hold an embedding of each class and of "none"; without classes
    there is none; self-conditioning doubles the input's channels."""

    def shapes(**values):
        config = digits_config(**values)
        method = methods.make(config, fields_of(config))
        return jax.eval_shape(method.init, KEY)[0].params["net"]

    embedded = shapes(**CLASSES)["label"]["embedding"]
    assert embedded.shape[0] == 11
    plain, both = shapes(), shapes(diffusion__self_condition=True)
    assert "label" not in plain
    assert plain["conv_in"]["kernel"].shape[2] == 1
    assert both["conv_in"]["kernel"].shape[2] == 2


def test_self_conditioning():
    """In half of the steps the network receives 0, in the others its own prediction of
    x_0, without a gradient through it; sampling passes on the previous prediction.

    A network with the output w + (self_cond) gives w or 2 w, each with slope 1 in w;
    and w, 2 w, 3 w, ... along the sampling loop.
    """
    method = make_method(
        Stub(lambda w, x, label: w + x[..., 1:]),
        diffusion__prediction="x0",
        diffusion__self_condition=True,
    )
    batch, w = digits(8), 0.1

    def loss_of(w, key):
        variables = Variables({"net": w}, {})
        return method.loss("net", variables, (), batch, key, STEP).value

    keys = jax.random.split(KEY, 100)
    gradients = jax.vmap(jax.value_and_grad(loss_of), (None, 0))
    values, slopes = map(np.asarray, jax.jit(gradients)(w, keys))
    once, twice = (np.mean((batch["image"] - n * w) ** 2) for n in (1, 2))
    conditioned = np.isclose(values, twice, rtol=1e-5)
    assert 30 < conditioned.sum() < 70  # four standard errors
    np.testing.assert_allclose(values[~conditioned], once, rtol=1e-5)
    expected = -2 * (np.mean(batch["image"]) - np.where(conditioned, 2 * w, w))
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)

    variables = Variables({"net": w}, {})
    drawn = sample_of(method, range(8), variables, num_steps=5, num_frames=5)
    frames = np.broadcast_to(w * np.arange(1, 6)[:, None, None, None], (8, 5, 8, 8, 1))
    np.testing.assert_allclose(drawn["frames"], frames, rtol=1e-5)
    np.testing.assert_allclose(drawn["image"], 5 * w, rtol=1e-5)


@pytest.mark.parametrize("value,fixed", [(-1.0, "fixedsmall"), (1.0, "fixedlarge")])
def test_ends_of_the_learned_range(value, fixed):
    """A network whose variance output is -1 or 1 has the samples and the VLB of the
    fixed variance (except for the decoder's, which is beta_1 at 1)."""

    def ends(w, x, label):
        return jnp.concatenate([0.3 * x, jnp.full_like(x, value)], axis=-1)

    expected = make_method(Stub(), diffusion__variance=fixed)
    learned = {"diffusion__variance": "learned_range", "diffusion__loss": "hybrid"}
    method = make_method(Stub(ends), **learned)
    np.testing.assert_allclose(
        *(sample_of(m, range(8), num_steps=5)["image"] for m in (method, expected)),
        atol=1e-5,
    )
    found, vlb = (vlb_of(m, digits(8)) for m in (method, expected))
    np.testing.assert_allclose(found["transitions"], vlb["transitions"], rtol=1e-5)
    if fixed == "fixedsmall":
        np.testing.assert_allclose(found["decoder"], vlb["decoder"], rtol=1e-5)


def test_timestep_sampler_receives_the_losses():
    """A step observes times and losses of the examples, which the timestep sampler
    keeps, by hand; the mean is weighted by the timestep sampler's weights."""
    method = make_method(
        Stub(),
        diffusion__timestep_sampler="second_moment",
        diffusion__prediction="x0",
    )
    history = {"loss": jnp.ones((12, 10)).at[3:].set(3.0), "count": jnp.full(12, 10)}
    loss = method.loss("net", NONE, history, digits(64), KEY, STEP)
    t, by_example = map(np.asarray, (loss.observed["t"], loss.observed["loss"]))
    assert set(t) <= set(range(1, 13))
    p = 0.999 * np.array([1.0] * 3 + [3.0] * 9) / 30 + 0.001 / 12
    weighted = np.mean(by_example / (12 * p[t - 1]))
    np.testing.assert_allclose(loss.value, weighted, rtol=1e-5)
    state, after = method.after_step(NONE, history, loss.observed)
    assert state == {}
    last = {int(time): loss for time, loss in zip(t, by_example, strict=True)}
    for time, loss in last.items():
        np.testing.assert_allclose(after["loss"][time - 1, -1], loss)


# Refusals.


def build(values):
    """Builds all that a config describes."""
    config = digits_config(**values)
    method = methods.make(config, fields_of(config))
    methods.make_task(config, method, "vlb")
    task_runner.open_source(config, methods.make_task(config, method, "sample"))


NO_SIGNAL = {"diffusion__schedule": "jsd", "diffusion__prediction": "v"}
ZERO_SNR = {"diffusion__zero_terminal_snr": True, "diffusion__prediction": "v"}
MU = {"diffusion__prediction": "mu"}
LEARNED = {"diffusion__loss": "vlb", "diffusion__variance": "learned"}
LEARNED_RANGE = {"diffusion__variance": "learned_range"}


@pytest.mark.parametrize(
    "values,words",
    [
        ({"diffusion__num_timesteps": 1}, "num_timesteps must be at least 2, not 1"),
        ({"eval__num_terms": 12}, r"eval.num_terms.*1..11.*not 12"),
        ({"eval__num_terms": 0}, r"eval.num_terms.*not 0"),
        ({"diffusion__prediction": "noise"}, "diffusion.prediction 'noise'.*eps"),
        ({"diffusion__variance": "learnt"}, "diffusion.variance 'learnt'.*fixedlarge"),
        ({"diffusion__loss": "mse"}, "diffusion.loss 'mse'.*simple"),
        (
            {"diffusion__timestep_sampler": "early"},
            "diffusion.timestep_sampler 'early'.*antithetic",
        ),
        ({"diffusion__schedule": "sine"}, "'sine'.*linear"),
        ({"sample__sampler": "eular"}, "sampler 'eular'.*ancestral"),
        ({"sample__spacing": "even"}, "'even'.*leading"),
        ({"sample__num_steps": 13}, "num_steps must lie in 1..12"),
        (
            {"sample__thresholding": "hard"},
            "sample.thresholding 'hard'.*none, static, dynamic",
        ),
        ({"model__name": "vit"}, "model.name 'vit'.*unet"),
        ({**CLASSES, "diffusion__cond_dropout": 1.0}, r"cond_dropout.*\[0, 1\).*1"),
        (
            {"sample__guidance_interval": (1.0, -1.0)},
            r"guidance_interval = \(1.0, -1.0\).*the smaller one first",
        ),
        ({"sample__label": 0}, "sample.label = 0, but the model has no classes"),
        ({**CLASSES, "sample__label": 10}, "sample.label = 10 is not one of the 10"),
        ({**CLASSES, "sample__label": -2}, "sample.label.*-1, not -2"),
        ({"sample__num_frames": -1}, "num_frames must be at least 0, not -1"),
        ({"sample__num_frames": 6}, "num_frames must lie in 0..5.*not 6"),
        ({"model__num_classes": -1}, "num_classes must be at least 0, not -1"),
        ({"sample__guidance_scale": float("nan")}, "guidance_scale must be.*nan"),
        ({"sample__guidance_interval": (0.0,)}, r"two log-SNRs.*\(\) to guide"),
    ],
)
def test_invalid_values_are_refused(values, words):
    """A ValueError names the value that is invalid and those that are known."""
    with pytest.raises(ValueError, match=words):
        build(values)


@pytest.mark.parametrize(
    "values,words,remedy",
    [
        *(
            (
                NO_SIGNAL | {"diffusion__prediction": name},
                f"no signal.*predicts {name} .*x0, v or mu",
                NO_SIGNAL,
            )
            for name in ("eps", "score", "edm")
        ),
        (
            {"diffusion__zero_terminal_snr": True},
            "no signal.*x0, v or mu",
            {"diffusion__prediction": "x0"},
        ),
        *(
            (
                ZERO_SNR | {"diffusion__loss": name},
                f"no signal.*weight of diffusion.loss '{name}'.*cosine",
                {"diffusion__zero_terminal_snr": False},
            )
            for name in ("continuous", "edm")
        ),
        (
            NO_SIGNAL | {"sample__sampler": "heun", "sample__spacing": "trailing"},
            "no signal.*sample.sampler cannot start.*'leading'",
            {"sample__spacing": "leading"},
        ),
        (
            {"diffusion__zero_terminal_snr": True, "diffusion__schedule": "sigmoid"},
            "zero_terminal_snr.*'sigmoid' is a curve.*linear",
            {"diffusion__zero_terminal_snr": False},
        ),
        (
            NO_SIGNAL | {"sample__spacing": "logsnr"},
            "pure noise.*leading, trailing or quadratic",
            {"sample__spacing": "trailing"},
        ),
        (
            MU | {"diffusion__timestep_sampler": "lognormal"},
            "draws continuous times.*prediction 'mu'.*second_moment",
            {"diffusion__timestep_sampler": "antithetic"},
        ),
        (
            MU | {"sample__spacing": "karras"},
            "predicts mu .*'karras'.*between",
            {"sample__spacing": "trailing"},
        ),
        (
            MU | {"sample__sampler": "dpmpp_2s"},
            "predicts mu .*sample.sampler or sample.spacing.*between",
            {"sample__sampler": "dpmpp_2m"},
        ),
        (
            {"diffusion__loss": "vlb", "diffusion__timestep_sampler": "continuous"},
            "'vlb'.*draws continuous times.*loss 'continuous'",
            {"diffusion__loss": "continuous"},
        ),
        (
            LEARNED_RANGE,
            "'learned_range' is not trained by diffusion.loss 'simple'.*vlb or hybrid",
            {"diffusion__loss": "hybrid"},
        ),
        (
            LEARNED | {"sample__sampler": "ancestral", "sample__num_steps": 5},
            "'learned' is only valid for steps.*num_steps.*'learned_range'",
            {"sample__num_steps": 12},
        ),
        (
            {"sample__guidance_scale": 2.0},
            "guidance_scale = 2.0.*cond_dropout.*num_classes or model.caption_width",
            GUIDED,
        ),
        (
            {"diffusion__cond_dropout": 0.1},
            "cond_dropout = 0.1.*num_classes = 0",
            CLASSES,
        ),
        (
            {"diffusion__loss": "hybrid"},
            "'hybrid'.*'fixedlarge' is fixed.*'learned_range'",
            LEARNED_RANGE,
        ),
        (
            {
                "diffusion__loss": "continuous",
                "diffusion__timestep_sampler": "lognormal",
            },
            "'continuous'.*'lognormal' is not uniform.*loss 'edm'",
            {"diffusion__loss": "edm"},
        ),
        (
            {"sample__guidance_scale": 2.0, **CLASSES},
            "guidance_scale = 2.0.*cond_dropout",
            {"diffusion__cond_dropout": 0.1},
        ),
    ],
)
def test_invalid_combinations_are_refused(values, words, remedy):
    """A ValueError names the values, and its remedy is accepted."""
    with pytest.raises(ValueError, match=words):
        build(values)
    build(values | remedy)


def test_unknown_keys_are_refused():
    """An unknown key in the group model is a TypeError of the network."""
    config = digits_config()
    with config.unlocked():
        config.model.depth = 3
    with pytest.raises(TypeError, match="depth"):
        methods.make(config, fields_of(config))


def test_unknown_families_are_refused():
    """A ValueError names the known ones."""
    config = digits_config()
    config.method = "gpt"
    with pytest.raises(ValueError, match="'gpt'.*ddpm"):
        methods.make(config, fields_of(config))

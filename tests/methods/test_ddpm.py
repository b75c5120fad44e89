"""Laws of denoising diffusion as a family: its loss, its bound and its samples."""

import dataclasses
import functools
import pathlib
import runpy

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import methods, prng
from diffusion_jax.data import sources, transforms
from diffusion_jax.diffusion import guidance, losses, process, samplers
from diffusion_jax.models.unet import ExampleDropout, time_embedding
from diffusion_jax.training import parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.step import make_train_step

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = jax.random.key(11)
STEP = jnp.int32(0)


class Network(nn.Module):
    """Three dense layers over all pixels: quick to compile, and able to overfit."""

    width: int = 16
    dropout: float = 0.0
    channels: int = 1

    @nn.compact
    def __call__(self, x, t, dropout_index=None, label=None):
        h = x.reshape(x.shape[0], -1)
        h = jnp.concatenate([h, time_embedding(t, 16)], axis=1)
        for _ in range(2):
            h = nn.swish(nn.Dense(self.width)(h))
            if label is not None:
                h += nn.Embed(11, self.width)(label)
            h = ExampleDropout(self.dropout)(h, dropout_index)
        h = nn.Dense(x[0, ..., 0].size * self.channels)(h)
        return h.reshape(*x.shape[:-1], self.channels)


def config_of(**values):
    """The digits' smoke run with 12 times; keys of values are GROUP__NAME."""
    make = runpy.run_path(str(ROOT / "configs/digits.py"))["get_config"]
    config = make("tiny")
    config.diffusion.update(num_timesteps=12, schedule="linear", prediction="eps")
    config.diffusion.update(loss="simple", variance="fixedlarge")
    for name, value in {"eval__num_terms": 11, **values}.items():
        group, key = name.split("__")
        config[group][key] = value
    return config


def make_method(network=None, **values):
    """Denoising diffusion with that network."""
    method = methods.make(config_of(**values))
    network = network or Network(channels=2 if method.learned_variance else 1)
    return dataclasses.replace(method, network=network)


def digits(n, first=0):
    """A batch of the first n digits, as the loader gives them."""
    source = sources.make("digits", "train", 8, 1, None)
    read = sources.read(source, np.arange(n))
    index = np.arange(first, first + n, dtype=np.int32)
    return read | {"index": index, "image": transforms.to_float(read["image"])}


def params_of(method):
    """Parameters larger than at initialisation, so that outputs are not nearly 0."""
    params, _, _ = jax.jit(method.init)(KEY)
    return jax.tree.map(lambda x: 1.5 * x + 0.05, params)


def loss_of(method, batch, key=KEY):
    """The mean loss of a batch."""
    params = params_of(method)
    run = jax.jit(lambda batch: method.loss("net", params, {}, (), batch, key, STEP)[0])
    return float(run(batch))


def take(batch, places):
    """Some examples of a batch."""
    return jax.tree.map(lambda x: x[places], batch)


class Spy:
    """A network that answers 0.3 x_t and keeps what it was asked."""

    def __init__(self):
        self.x_t = self.t = None

    def apply(self, variables, x_t, t, dropout_index=None, rngs=None):
        self.x_t, self.t = np.asarray(x_t), np.asarray(t)
        return 0.3 * x_t


def spied(batch, key=KEY, **values):
    """x_t, the time given to the network, and the loss."""
    spy = Spy()
    method = make_method(spy, **values)
    loss, _ = method.loss("net", {"net": {}}, {}, (), batch, key, STEP)
    return spy.x_t, spy.t, float(loss)


# The loss.


def test_loss_is_a_mean_over_shards():
    """The mean of the shards' losses is the loss of the whole batch, with dropout."""
    method, batch = make_method(Network(dropout=0.5)), digits(8)
    shards = [loss_of(method, take(batch, slice(i, i + 2))) for i in range(0, 8, 2)]
    assert np.mean(shards) == pytest.approx(loss_of(method, batch), rel=1e-5)


def test_loss_does_not_know_places():
    """Permuting the examples together with their indices changes nothing."""
    method, batch = make_method(Network(dropout=0.5)), digits(8)
    order = np.array([3, 0, 7, 1, 2, 6, 5, 4])
    expected = loss_of(method, batch)
    assert loss_of(method, take(batch, order)) == pytest.approx(expected, rel=1e-5)
    moved = batch | {"index": batch["index"][order]}
    assert abs(loss_of(method, moved) - expected) > 1e-4


def test_noise_belongs_to_key_and_index():
    """Time and noise of an example depend on the key and its global index alone."""
    batch = digits(8, first=100)
    x_t, t, _ = spied(batch)
    for places in ([5], [7, 5, 0]):
        found_x_t, found_t, _ = spied(take(batch, np.array(places)))
        np.testing.assert_array_equal(found_x_t, x_t[places])
        np.testing.assert_array_equal(found_t, t[places])
    other_x_t, _, _ = spied(batch | {"index": batch["index"] + 8})
    assert np.all(np.any(other_x_t != x_t, axis=(1, 2, 3)))
    other_x_t, _, _ = spied(batch, key=jax.random.key(12))
    assert np.all(np.any(other_x_t != x_t, axis=(1, 2, 3)))


def test_simple_loss_of_eps_by_hand():
    """Equation 14: the mean of (eps - output)^2, with alpha_bar in float64; the
    network is given 0..T-1, all of them."""
    batch = digits(200)
    x_t, t, loss = spied(batch)
    assert set(t) == set(range(12))
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 12))[t][:, None, None, None]
    eps = (x_t - np.sqrt(alpha_bar) * batch["image"]) / np.sqrt(1 - alpha_bar)
    assert abs(eps.mean()) < 0.05 and abs(eps.std() - 1) < 0.05
    assert loss == pytest.approx(np.mean((eps - 0.3 * x_t) ** 2), rel=1e-3)


@pytest.mark.slow
def test_bound_as_a_loss_is_the_bound():
    """Mean over all indices of the "bound" loss, times T, is near the bound itself
    without the prior, in bits/dim (the loss draws one of the T terms)."""
    batch = digits(4)
    repeated = {
        "index": np.arange(4 * 500, dtype=np.int32),
        "image": np.tile(batch["image"], (500, 1, 1, 1)),
    }
    method = make_method(diffusion__loss="bound")
    found = 12 * loss_of(method, repeated)
    clipless = [
        evaluated(method, batch, jax.random.key(i), clip=False) for i in range(30)
    ]
    expected = np.mean(clipless) / (64 * np.log(2))
    assert found == pytest.approx(expected, rel=0.1)


GO_TOGETHER = [
    *((prediction, "simple", "fixedsmall") for prediction in process.PREDICTIONS),
    *(("v", loss, "fixedlarge") for loss in ("bound", "continuous", "min_snr", "edm")),
    *(("v", loss, "learned_range") for loss in losses.LEARN_VARIANCE),
    ("eps", "bound", "fixedsmall"),
    ("mu", "bound", "learned"),
]


@pytest.mark.parametrize("prediction,loss,variance", GO_TOGETHER)
def test_losses_and_gradients_are_finite(prediction, loss, variance):
    """They are at all times, for every prediction, loss and variance."""
    values = {"prediction": prediction, "loss": loss, "variance": variance}
    method = make_method(
        **{f"diffusion__{name}": value for name, value in values.items()},
        sample__num_steps=12,
    )
    params, batch = params_of(method), digits(64)  # meets all 12 times

    def loss_of(params):
        return method.loss("net", params, {}, (), batch, KEY, STEP)[0]

    value, grads = jax.jit(jax.value_and_grad(loss_of))(params)
    assert np.isfinite(value) and value > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert any(np.any(x != 0) for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("prediction", ["x0", "v", "mu"])
def test_no_signal_at_the_end_is_finite(prediction):
    """jsd leaves no signal at T: what does not need it is trained and sampled all the
    same."""
    method = make_method(diffusion__schedule="jsd", diffusion__prediction=prediction)
    assert np.isfinite(loss_of(method, digits(64)))
    params = params_of(method)
    drawn = jax.jit(lambda i: method.sample(params, {}, i, KEY)["image"])(np.arange(2))
    assert np.isfinite(drawn).all()


# The bound.


def bound_terms(method, batch, key, clip=True):
    """Sum of all terms t >= 2 and the term t = 1, [B] each, one call a time."""
    params, x_0 = params_of(method), jnp.asarray(batch["image"])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])

    def network(x_t, t):
        return method.network.apply({"params": params["net"]}, x_t, t)

    denoise = guidance.from_network(network, method.prediction, method.schedule)
    denoise = guidance.static_thresholding(denoise) if clip else denoise

    @jax.jit
    def term(t):
        noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        x_t = process.q_sample(
            x_0, method.schedule(t), prng.normal(noise_keys, x_0.shape[1:])
        )
        log_variance = losses.reverse_log_variance(method.variance, method.schedule, t)
        if t.ndim == 0:
            t, log_variance = (jnp.full(len(x_0), v) for v in (t, log_variance))
        return losses.vlb_term(
            x_0, x_t, denoise(x_t, t), t, method.schedule, log_variance
        )

    terms = np.stack([term(jnp.int32(t)) for t in range(1, method.num_timesteps + 1)])
    return terms[1:].sum(axis=0), terms[0]


def evaluated(method, batch, key, clip=True):
    """Nats of transitions and decoder together, the mean over the batch."""
    transitions, decoder = bound_terms(method, batch, key, clip)
    return np.mean(transitions + decoder)


@pytest.mark.parametrize("variance", process.VARIANCES)
def test_all_terms_are_the_plain_sum(variance):
    """With num_terms = T - 1 the bound is the sum over all times, on the same noise;
    its prior is the closed form of KL(N(a x_0, 1 - a^2) || N(0, 1))."""
    method = make_method(diffusion__variance=variance)
    batch = digits(6)
    params = params_of(method)
    found = jax.jit(lambda b: method.evaluate(params, {}, b, KEY))(batch)
    transitions, decoder = bound_terms(method, batch, KEY)
    np.testing.assert_allclose(found["transitions"], transitions, rtol=1e-4)
    np.testing.assert_allclose(found["decoder"], decoder, rtol=1e-4)
    a2 = np.prod(1 - np.linspace(1e-4, 0.02, 12))
    prior = 0.5 * (a2 * batch["image"] ** 2 + (1 - a2) - 1 - np.log(1 - a2))
    np.testing.assert_allclose(found["prior"], prior.sum(axis=(1, 2, 3)), rtol=1e-4)


def test_every_time_once_at_both_ends_of_the_strata(monkeypatch):
    """With all terms no time is left out or doubled, wherever in its stratum a time
    is drawn: float32 would round 998 + (1 - 2^-24) up to 999."""
    method = make_method(diffusion__num_timesteps=1000, eval__num_terms=999)
    params, batch, found = params_of(method), digits(1), []
    for u in (0.0, 1 - 2**-24):
        monkeypatch.setattr(jax.random, "uniform", lambda key, u=u: jnp.float32(u))
        measured = jax.jit(lambda b: method.evaluate(params, {}, b, KEY))(batch)
        found.append(float(measured["transitions"][0]))
    assert found[0] == found[1]


@pytest.mark.parametrize("num_terms", [1, 4])
def test_fewer_terms_are_unbiased(num_terms):
    """The mean over 600 keys of k drawn terms, scaled, is that of all of them, within
    4 standard errors; T - 1 = 11 is no multiple of k = 4."""
    batch = digits(2)

    def mean_and_error(num_terms):
        method = make_method(eval__num_terms=num_terms)
        params = params_of(method)
        keys = jax.random.split(jax.random.key(num_terms), 600)
        measured = jax.jit(
            jax.vmap(lambda key: method.evaluate(params, {}, batch, key)["transitions"])
        )(keys)
        return np.mean(measured), np.std(np.mean(measured, axis=1)) / np.sqrt(600)

    (found, error), (expected, other_error) = map(mean_and_error, (num_terms, 11))
    assert abs(found - expected) < 4 * np.hypot(error, other_error)
    assert np.hypot(error, other_error) < 0.05 * expected


def test_the_bound_of_an_image_is_its_own():
    """It depends on the key, the image and its index, not on the batch around it."""
    method, batch = make_method(eval__num_terms=3), digits(5)
    params = params_of(method)
    run = jax.jit(lambda b: method.evaluate(params, {}, b, KEY))
    whole, part = run(batch), run(take(batch, np.array([4, 2])))
    expected = take(whole, np.array([4, 2]))
    chex.assert_trees_all_close(part, expected, rtol=1e-5)


# Samples.


def test_sample_i_is_sample_i():
    """Sample i depends on seed and i, not on how many are drawn, or how many at once;
    the last frame is the sample."""
    method = make_method(
        sample__sampler="ancestral", sample__num_frames=2, sample__num_steps=5
    )
    state = states.initial(KEY, method.phases, method.init)
    state = state.replace(ema=params_of(method))
    draws = [
        methods.make_draw(method, size)(state, n, seed=4)
        for size, n in ((8, 20), (16, 5), (3, 4))
    ]
    assert [len(drawn["image"]) for drawn in draws] == [20, 5, 4]
    for drawn in draws:
        assert drawn["index"].tolist() == list(range(len(drawn["image"])))
        expected = draws[0]["image"][: len(drawn["image"])]
        np.testing.assert_allclose(drawn["image"], expected, atol=1e-5)
        assert drawn["frames"].shape == (len(drawn["image"]), 2, 8, 8, 1)
        np.testing.assert_array_equal(drawn["frames"][:, -1], drawn["image"])
    images = draws[0]["image"]
    assert len(np.unique(images.reshape(20, -1).round(4), axis=0)) == 20
    other = methods.make_draw(method, 8)(state, 8, seed=5)["image"]
    assert np.abs(other - images[:8]).max() > 0.01


def sample_of(method, index, key=KEY, params=None):
    """What the method draws for those indices."""
    params = params_of(method) if params is None else params
    run = jax.jit(lambda index: method.sample(params, {}, index, key))
    return jax.device_get(run(np.asarray(index, np.int32)))


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_sample_does_not_know_its_place(sampler):
    """Whatever the sampler, sample i is the same among others and at another place."""
    method = make_method(sample__sampler=sampler, sample__num_steps=3)
    params = params_of(method)
    run = jax.jit(lambda index: method.sample(params, {}, index, KEY)["image"])
    images, moved = map(np.asarray, (run(np.arange(4)), run(np.array([3, 1, 7, 0]))))
    assert np.isfinite(images).all()
    assert len(np.unique(images.reshape(4, -1).round(4), axis=0)) == 4
    np.testing.assert_allclose(moved[[3, 1, 0]], images[[0, 1, 3]], rtol=1e-5)


def test_samples_use_the_average():
    """The averaged parameters are drawn from, not the last ones."""
    method = make_method()
    state = states.initial(KEY, method.phases, method.init)
    broken = jax.tree.map(lambda x: x * jnp.nan, state.params)
    drawn = methods.make_draw(method, 8)(state.replace(params=broken), 2, 0)
    assert np.isfinite(drawn["image"]).all()
    assert np.abs(drawn["image"]).max() <= 1


def test_eight_digits_are_overfitted():
    """600 steps on eight digits: the loss falls to a quarter of what the best constant
    scores (1); half of the samples lie within .5 (root mean square, in [-1, 1]) of one
    of the digits, which are .76 apart; at least four of the eight are met."""
    method = make_method(
        Network(width=256),
        diffusion__num_timesteps=100,
        diffusion__schedule="cosine",
        sample__num_steps=50,
        optim__learning_rate=3e-3,
        optim__decay_steps=600,
        optim__clip_norm=1.0,
        optim__ema_decay=0.99,
    )
    batch = digits(8)
    initial = functools.partial(states.initial, phases=method.phases, init=method.init)
    state = jax.tree.map(lambda x: x[None], jax.jit(initial)(KEY))
    step = jax.pmap(
        make_train_step(method.phases, method.loss, method.remember),
        axis_name=parallel.AXIS,
        devices=jax.local_devices()[:1],
    )
    images = np.tile(batch["image"], (8, 1, 1, 1))[None]
    history = []
    for i in range(600):
        index = np.arange(64 * i, 64 * i + 64, dtype=np.int32)[None]
        state, metrics = step(state, {"index": index, "image": images})
        history.append(metrics["loss"])
    assert np.mean(history[:5]) > 0.8
    assert np.mean(history[-50:]) < 0.25
    state = jax.tree.map(lambda x: x[0], state)
    drawn = methods.make_draw(method, 32)(state, 32, seed=0)["image"]
    distances = np.sqrt(
        np.mean((drawn[:, None] - batch["image"][None]) ** 2, axis=(2, 3, 4))
    )
    assert np.median(distances.min(axis=1)) < 0.5
    assert len(set(distances.argmin(axis=1))) >= 4


# Classes, guidance, self-conditioning and learned variances.


class Told:
    """A network of one number w, that says a function of (w, x, label)."""

    def __init__(self, answer):
        self.answer = answer

    def apply(self, variables, x, t, dropout_index=None, rngs=None, label=None):
        return self.answer(variables["params"], x, label)


def test_labels_are_dropped():
    """A share cond_dropout of the examples is told "none", num_classes; which ones
    is a matter of key and index, and the others are told their own."""
    told = []
    network = Told(lambda w, x, label: (told.append(np.asarray(label)), x)[1])
    method = make_method(network, **CLASSES, diffusion__label_dropout=0.2)
    batch = digits(1000)
    places = np.random.default_rng(0).permutation(1000)
    for part in (batch, take(batch, places)):
        method.loss("net", {"net": 0}, {}, (), part, KEY, STEP)
    dropped = told[0] == 10
    assert abs(dropped.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 1000)
    np.testing.assert_array_equal(told[0], np.where(dropped, 10, batch["label"]))
    np.testing.assert_array_equal(told[1], told[0][places])


def test_guidance_is_a_mixture_of_networks():
    """Samples with guidance w are those of a network that says (1 - w) f(none) +
    w f(class); each comes with its label: all in turn, or the one asked for."""

    def answer(w, x, label):
        return 0.3 * x + 0.05 * label[:, None, None, None]

    def mixed(w, x, label):
        none, label = answer(w, x, jnp.full_like(label, 10)), answer(w, x, label)
        return -1.5 * none + 2.5 * label

    values = {**CLASSES, "diffusion__label_dropout": 0.1, "sample__clip": "none"}
    index, params = np.arange(12), {"net": 0}
    guided = make_method(Told(answer), sample__guidance_scale=2.5, **values)
    found = sample_of(guided, index, params=params)
    expected = sample_of(make_method(Told(mixed), **values), index, params=params)
    np.testing.assert_allclose(found["image"], expected["image"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["label"], index % 10)
    values["sample__label"] = 3
    found = sample_of(make_method(Told(answer), **values), index, params=params)
    np.testing.assert_array_equal(found["label"], 3)


def test_the_network_of_a_config_knows_classes():
    """Its parameters hold an embedding of each class and of "none"; without classes
    there is none; self-conditioning doubles what it is shown."""

    def shapes(**values):
        method = methods.make(config_of(**values))
        return jax.eval_shape(method.init, KEY)[0]["net"]

    embedded = shapes(**CLASSES)["label"]["embedding"]
    assert embedded.shape[0] == 11
    plain, both = shapes(), shapes(diffusion__self_condition=True)
    assert "label" not in plain
    assert plain["conv_in"]["kernel"].shape[2] == 1
    assert both["conv_in"]["kernel"].shape[2] == 2


def test_self_conditioning():
    """In half of the steps the network is shown 0, in the others its own prediction of
    x_0, without a gradient through it; a walk shows it the prediction before.

    A network that says w + (what it is shown): w or 2 w, each with slope 1 in w; and
    w, 2 w, 3 w, ... on the sampling.
    """
    network = Told(lambda w, x, label: w + x[..., 1:])
    method = make_method(
        network,
        diffusion__prediction="x0",
        diffusion__self_condition=True,
        sample__num_steps=5,
        sample__num_frames=5,
    )
    batch, w = digits(4), 0.1

    def loss_of(w, key):
        return method.loss("net", {"net": w}, {}, (), batch, key, STEP)[0]

    keys = jax.random.split(KEY, 100)
    gradients = jax.vmap(jax.value_and_grad(loss_of), (None, 0))
    values, slopes = map(np.asarray, jax.jit(gradients)(w, keys))
    once, twice = (np.mean((batch["image"] - n * w) ** 2) for n in (1, 2))
    shown = np.isclose(values, twice, rtol=1e-5)
    assert 30 < shown.sum() < 70  # four standard errors
    np.testing.assert_allclose(values[~shown], once, rtol=1e-5)
    expected = -2 * (np.mean(batch["image"]) - np.where(shown, 2 * w, w))
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)

    drawn = sample_of(method, np.arange(2), params={"net": w})
    frames = np.broadcast_to(w * np.arange(1, 6)[:, None, None, None], (2, 5, 8, 8, 1))
    np.testing.assert_allclose(drawn["frames"], frames, rtol=1e-5)
    np.testing.assert_allclose(drawn["image"], 5 * w, rtol=1e-5)


@pytest.mark.parametrize("value,fixed", [(-1.0, "fixedsmall"), (1.0, "fixedlarge")])
def test_ends_of_the_learned_range(value, fixed):
    """A network that says -1 or 1 of the variance draws the samples of the fixed one,
    and has its bound (but for the decoder's width, which is beta_1 at 1)."""

    def ends(w, x, label):
        return jnp.concatenate([0.3 * x, jnp.full_like(x, value)], axis=-1)

    plain = Told(lambda w, x, label: 0.3 * x)
    walk_of_five = {"sample__sampler": "ancestral", "sample__num_steps": 5}
    expected = make_method(plain, diffusion__variance=fixed, **walk_of_five)
    learned = {"diffusion__variance": "learned_range", "diffusion__loss": "hybrid"}
    method = make_method(Told(ends), **learned, **walk_of_five)
    index, batch, params = np.arange(3), digits(3), {"net": 0}
    np.testing.assert_allclose(
        sample_of(method, index, params=params)["image"],
        sample_of(expected, index, params=params)["image"],
        atol=1e-5,
    )
    found, bound = (
        jax.jit(lambda batch, m=m: m.evaluate(params, {}, batch, KEY))(batch)
        for m in (method, expected)
    )
    np.testing.assert_allclose(found["transitions"], bound["transitions"], rtol=1e-5)
    if fixed == "fixedsmall":
        np.testing.assert_allclose(found["decoder"], bound["decoder"], rtol=1e-5)


def test_the_draw_of_times_is_told_the_losses():
    """What a step observes, and the draw remembers, are times and losses of examples,
    by hand; the mean is weighted by what the draw says."""
    method = make_method(
        Told(lambda w, x, label: 0.3 * x),
        diffusion__time_draw="second_moment",
        diffusion__prediction="x0",
    )
    memory = {"loss": jnp.ones((12, 10)).at[3:].set(3.0), "count": jnp.full(12, 10)}
    batch = digits(64)
    value, aux = method.loss("net", {"net": 0}, {}, memory, batch, KEY, STEP)
    t, by_example = map(np.asarray, (aux.observed["t"], aux.observed["loss"]))
    assert set(t) <= set(range(1, 13))
    p = 0.999 * np.array([1.0] * 3 + [3.0] * 9) / 30 + 0.001 / 12
    weighted = np.mean(by_example / (12 * p[t - 1]))
    np.testing.assert_allclose(value, weighted, rtol=1e-5)
    after = method.remember(memory, aux.observed)
    last = {int(time): loss for time, loss in zip(t, by_example, strict=True)}
    for time, loss in last.items():
        np.testing.assert_allclose(after["loss"][time - 1, -1], loss)


# What is refused.


NO_SIGNAL = {"diffusion__schedule": "jsd", "diffusion__prediction": "v"}
ZERO_SNR = {"diffusion__zero_snr": True, "diffusion__prediction": "v"}
MU = {"diffusion__prediction": "mu"}
LEARNED = {"diffusion__loss": "bound", "diffusion__variance": "learned"}
CLASSES = {"model__num_classes": 10}


@pytest.mark.parametrize(
    "values,words",
    [
        ({"diffusion__num_timesteps": 1}, "at least 2"),
        ({"eval__num_terms": 12}, r"eval.num_terms.*1..11.*not 12"),
        ({"eval__num_terms": 0}, r"eval.num_terms.*not 0"),
        ({"diffusion__prediction": "noise"}, "diffusion.prediction 'noise'.*eps"),
        ({"diffusion__variance": "learnt"}, "diffusion.variance 'learnt'.*fixedlarge"),
        ({"diffusion__loss": "mse"}, "diffusion.loss 'mse'.*simple"),
        (
            {"diffusion__time_draw": "early"},
            "diffusion.timestep_sampler 'early'.*antithetic",
        ),
        ({"diffusion__schedule": "sine"}, "'sine'.*linear"),
        ({"sample__sampler": "eular"}, "sampler 'eular'.*ancestral"),
        ({"sample__spacing": "even"}, "'even'.*leading"),
        ({"sample__num_steps": 13}, "12"),
        ({"sample__clip": "hard"}, "sample.clip 'hard'.*none, static, dynamic"),
        ({"model__name": "vit"}, "model.name 'vit'.*unet"),
        ({**CLASSES, "diffusion__label_dropout": 1.0}, r"cond_dropout.*\[0, 1\).*1"),
        ({"sample__guidance_interval": (1.0, -1.0)}, "guidance_interval.*no log-SNR"),
        ({"sample__label": 0}, "sample.label = 0 is none of the 0 classes"),
        ({**CLASSES, "sample__label": 10}, "sample.label = 10 is none of the 10"),
        ({**CLASSES, "sample__label": -2}, "sample.label = -2"),
        ({"sample__num_frames": -1}, "num_frames must be at least 0, not -1"),
        ({"model__num_classes": -1}, "num_classes must be at least 0, not -1"),
        ({"sample__guidance_scale": float("nan")}, "guidance_scale must be.*nan"),
        ({"sample__guidance_interval": (0.0,)}, "two log-SNRs"),
    ],
)
def test_a_wrong_value_is_refused(values, words):
    """A ValueError says which value is wrong and what is known."""
    with pytest.raises(ValueError, match=words):
        methods.make(config_of(**values))


@pytest.mark.parametrize(
    "values,words,remedy",
    [
        *(
            (
                NO_SIGNAL | {"diffusion__prediction": name},
                f"'jsd'.*no signal.*predicts {name} .*x0, v or mu",
                NO_SIGNAL,
            )
            for name in ("eps", "score", "edm")
        ),
        (
            {"diffusion__zero_snr": True},
            "'linear'.*no signal.*x0, v or mu",
            {"diffusion__prediction": "x0"},
        ),
        *(
            (
                ZERO_SNR | {"diffusion__loss": name},
                f"no signal.*weight of diffusion.loss '{name}'.*cosine",
                {"diffusion__zero_snr": False},
            )
            for name in ("continuous", "edm")
        ),
        (
            NO_SIGNAL | {"sample__sampler": "heun", "sample__spacing": "trailing"},
            "'jsd'.*sample.sampler cannot start there.*'leading'",
            {"sample__spacing": "leading"},
        ),
        (
            {"diffusion__zero_snr": True, "diffusion__schedule": "sigmoid"},
            "zero_terminal_snr.*'sigmoid' is a curve.*linear",
            {"diffusion__zero_snr": False},
        ),
        (
            NO_SIGNAL | {"sample__spacing": "logsnr"},
            "pure noise.*spacing leading, trailing or quadratic",
            {"sample__spacing": "trailing"},
        ),
        (
            MU | {"diffusion__time_draw": "lognormal"},
            "'lognormal' draws real times, and 'mu'.*second_moment",
            {"diffusion__time_draw": "antithetic"},
        ),
        (
            MU | {"sample__spacing": "karras"},
            "predicts mu .*between.*'karras'",
            {"sample__spacing": "trailing"},
        ),
        (
            MU | {"sample__sampler": "dpmpp_2s"},
            "predicts mu .*sampler or spacing.*between",
            {"sample__sampler": "dpmpp_2m"},
        ),
        (
            {"diffusion__loss": "bound", "diffusion__time_draw": "continuous"},
            "'bound'.*'continuous' draws real times.*loss 'continuous'",
            {"diffusion__loss": "continuous"},
        ),
        (
            {"diffusion__variance": "learned_range"},
            "'learned_range' is not taught by diffusion.loss 'simple'.*bound or hybrid",
            {"diffusion__loss": "hybrid"},
        ),
        (
            LEARNED | {"sample__sampler": "ancestral", "sample__num_steps": 5},
            "'learned' is that of single steps.*num_steps.*'learned_range'",
            {"sample__num_steps": 12},
        ),
        (
            {"sample__guidance_scale": 2.0},
            "guidance_scale = 2.0.*num_classes.*cond_dropout",
            {**CLASSES, "diffusion__label_dropout": 0.1},
        ),
        (
            {"diffusion__label_dropout": 0.1},
            "cond_dropout = 0.1.*num_classes = 0",
            CLASSES,
        ),
        (
            {"diffusion__loss": "hybrid"},
            "'hybrid'.*'fixedlarge' is fixed.*'learned_range'",
            {"diffusion__variance": "learned_range"},
        ),
        (
            {"diffusion__loss": "continuous", "diffusion__time_draw": "lognormal"},
            "'continuous'.*'lognormal' is not even.*loss 'edm'",
            {"diffusion__loss": "edm"},
        ),
        (
            {"sample__guidance_scale": 2.0, **CLASSES},
            "guidance_scale = 2.0.*cond_dropout",
            {"diffusion__label_dropout": 0.1},
        ),
    ],
)
def test_what_does_not_go_together_is_refused(values, words, remedy):
    """A ValueError says which values do not, and what it says to choose is taken."""
    with pytest.raises(ValueError, match=words):
        methods.make(config_of(**values))
    methods.make(config_of(**values | remedy))


def test_a_wrong_key_is_refused():
    """A key too many in a group is a TypeError of its factory."""
    config = config_of()
    with config.unlocked():
        config.model.depth = 3
    with pytest.raises(TypeError, match="depth"):
        methods.make(config)


def test_unknown_method_is_refused():
    """So is an unknown family."""
    config = config_of()
    config.method = "gpt"
    with pytest.raises(ValueError, match="'gpt'.*ddpm"):
        methods.make(config)

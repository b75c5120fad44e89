"""Laws of denoising diffusion as a family: its loss, its bound and its samples."""

import dataclasses
import functools
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import methods
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

    @nn.compact
    def __call__(self, x, t, dropout_index=None):
        h = x.reshape(x.shape[0], -1)
        h = jnp.concatenate([h, time_embedding(t, 16)], axis=1)
        for _ in range(2):
            h = nn.swish(nn.Dense(self.width)(h))
            h = ExampleDropout(self.dropout)(h, dropout_index)
        return nn.Dense(x[0].size)(h).reshape(x.shape)


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
    return dataclasses.replace(
        methods.make(config_of(**values)), network=network or Network()
    )


def digits(n, first=0):
    """A batch of the first n digits, as the loader gives them."""
    source = sources.make("digits", "train", 8, 1, None)
    images = sources.read(source, np.arange(n))["image"]
    index = np.arange(first, first + n, dtype=np.int32)
    return {"index": index, "image": transforms.to_float(images)}


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


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("prediction", process.PREDICTIONS)
def test_every_loss_of_every_prediction_is_finite(prediction, loss):
    """Losses and gradients are finite at all times, with both variances."""
    batch = digits(64)  # meets all 12 times
    for variance in process.VARIANCES:
        values = {"prediction": prediction, "loss": loss, "variance": variance}
        method = make_method(**{f"diffusion__{k}": v for k, v in values.items()})
        params = params_of(method)
        value, grads = jax.jit(
            jax.value_and_grad(
                lambda params, method=method: method.loss(
                    "net", params, {}, (), batch, KEY, STEP
                )[0]
            )
        )(params)
        assert np.isfinite(value) and value > 0
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        assert any(np.any(x != 0) for x in jax.tree.leaves(grads))
        if loss == "simple":
            break  # it knows no variance


@pytest.mark.parametrize("prediction", ["x0", "v", "mu"])
def test_no_signal_at_the_end_is_finite(prediction):
    """jsd leaves no signal at T: whatever is not eps is trained and sampled all the
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
    denoise = guidance.clipped(denoise) if clip else denoise

    @jax.jit
    def term(t):
        noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        x_t = process.q_sample(
            x_0, method.schedule(t), samplers.normal(noise_keys, x_0.shape[1:])
        )
        log_variance = losses.reverse_log_variance(method.variance, method.schedule, t)
        if t.ndim == 0:
            t, log_variance = (jnp.full(len(x_0), v) for v in (t, log_variance))
        return losses.bound_term(
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
    for name, values in part.items():
        np.testing.assert_allclose(values, whole[name][np.array([4, 2])], rtol=1e-5)


# Samples.


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_sample_i_is_sample_i(sampler):
    """Sample i depends on seed and i, not on how many are drawn, or how many at once;
    the last frame is the sample."""
    method = make_method(
        sample__sampler=sampler, sample__num_frames=2, sample__num_steps=5
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
        make_train_step(method.phases, method.loss),
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


# What is refused.


@pytest.mark.parametrize(
    "values,words",
    [
        ({"diffusion__schedule": "jsd"}, "'jsd'.*no signal.*x0, v or mu"),
        ({"diffusion__num_timesteps": 1}, "at least 2"),
        ({"eval__num_terms": 12}, r"eval.num_terms.*1..11.*not 12"),
        ({"eval__num_terms": 0}, r"eval.num_terms.*not 0"),
        ({"diffusion__prediction": "noise"}, "diffusion.prediction 'noise'.*eps"),
        ({"diffusion__variance": "learnt"}, "diffusion.variance 'learnt'.*fixedlarge"),
        ({"diffusion__loss": "mse"}, "diffusion.loss 'mse'.*simple"),
        ({"diffusion__schedule": "sine"}, "'sine'.*linear"),
        ({"sample__sampler": "euler"}, "sample.sampler 'euler'.*ancestral"),
        ({"sample__spacing": "even"}, "'even'.*leading"),
        ({"sample__num_steps": 13}, "12"),
        ({"model__name": "vit"}, "model.name 'vit'.*unet"),
    ],
)
def test_what_does_not_go_together_is_refused(values, words):
    """A ValueError says which value is wrong and what is known."""
    with pytest.raises(ValueError, match=words):
        methods.make(config_of(**values))


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

"""Laws of the autoencoder and of the VAE, against NumPy and a known evidence."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import make

from diffusion_jax import prng

KEY = jax.random.key(4)
STEP = jnp.int32(0)


def batch_of(n=4, first=0):
    image = np.random.default_rng(1).uniform(-1, 1, (n, 8, 8, 1))
    index = np.arange(first, first + n, dtype=np.int32)
    return {"index": index, "image": image.astype(np.float32)}


@functools.cache
def params_of(name):
    """Larger than at initialisation, so that codes are not nearly 0."""
    params, _, _ = jax.jit(make(name).init)(KEY)
    return jax.tree.map(lambda x: 2 * x + 0.02, params)


def loss_of(method, params, batch, key=KEY):
    """The loss and its metrics, as numbers."""
    run = jax.jit(lambda p, b: method.loss("net", p, {}, (), b, key, STEP))
    value, aux = run(params, batch)
    return float(value), jax.tree.map(float, aux.metrics)


def evaluate(method, params, batch, key=KEY):
    run = jax.jit(lambda p, b: method.evaluate(p, {}, b, key))
    return jax.device_get(run(params, batch))


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])


def encode(net, image):
    """The dense encoder, by hand: means, and log-variances if there are any."""
    hidden = np.maximum(dense(net["encoder_0"], image.reshape(len(image), -1)), 0)
    logvar = dense(net["logvar"], hidden) if "logvar" in net else None
    return dense(net["mean"], hidden), logvar


def decode(net, z):
    """The dense decoder, by hand: [B, 64]."""
    return dense(net["out"], np.maximum(dense(net["decoder_0"], z), 0))


def draws(index, number, shape, draw=jax.random.normal):
    """What example number index draws, by the rule of the house."""
    keys = prng.fold_in(prng.example_keys(KEY, index), number)
    return np.asarray(jax.vmap(lambda key: draw(key, shape))(keys), np.float64)


def coins(x, logits):
    """Log-likelihood of pixels under coins, by example."""
    terms = x * logits - np.log1p(np.exp(-np.abs(logits))) - np.maximum(logits, 0)
    return terms.reshape(len(x), -1).sum(1)


# The variational autoencoder.


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_loss_by_hand(beta):
    """-log p(x|z) + beta KL with the same draw, in NumPy on the same weights."""
    method, batch = make("digits_vae", vae__beta=beta), batch_of()
    params = params_of("digits_vae")
    net = params["net"]
    mean, logvar = encode(net, batch["image"])
    z = mean + np.exp(logvar / 2) * draws(batch["index"], 1, (3,))
    pixels = (batch["image"].reshape(4, -1) + 1) / 2
    nats = -coins(pixels, decode(net, z)).mean()
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1).mean()
    value, metrics = loss_of(method, params, batch)
    assert value == pytest.approx(nats + beta * kl, rel=1e-5)
    assert metrics == pytest.approx({"reconstruction": nats, "kl": kl}, rel=1e-4)


def test_evaluate_by_hand():
    """Reconstruction and KL are the terms of the bound; the importance bound is that of
    the draws 1..k; the error is that of the posterior's mean, in units of [0, 1]."""
    method, batch = make("digits_vae", eval__num_importance=3), batch_of()
    params = params_of("digits_vae")
    net, pixels = params["net"], (batch["image"].reshape(4, -1) + 1) / 2
    mean, logvar = encode(net, batch["image"])
    weights, nats = [], []
    for number in (1, 2, 3):
        eps = draws(batch["index"], number, (3,))
        z = mean + np.exp(logvar / 2) * eps
        nats.append(coins(pixels, decode(net, z)))
        log_q = -0.5 * (eps**2 + logvar).sum(1)
        weights.append(nats[-1] - 0.5 * (z**2).sum(1) - log_q)
    back = 1 / (1 + np.exp(-decode(net, mean)))
    expected = {
        "reconstruction": -nats[0],
        "kl": 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1),
        "importance_bound": np.log(np.mean(np.exp(weights), axis=0)),
        "squared_error": np.mean((back - pixels) ** 2, axis=1),
        "code": mean,
    }
    found = evaluate(method, params, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


def test_noise_is_its_examples_own():
    """What is measured of an example depends on its index and picture alone: not on its
    place, nor on its batch-mates; another index draws other noise."""
    method, batch = make("digits_vae", vae__binarize=True), batch_of()
    params, order = params_of("digits_vae"), np.array([2, 0, 2, 2])
    measured = evaluate(method, params, batch)
    again = evaluate(method, params, jax.tree.map(lambda x: x[order], batch))
    for name, values in measured.items():
        np.testing.assert_allclose(again[name], values[order], rtol=1e-5)
    other = evaluate(method, params, batch | {"index": batch["index"] + 9})
    assert np.all(other["reconstruction"] != measured["reconstruction"])


def test_loss_is_a_mean_over_shards():
    """The mean of the shards' losses is the loss of the whole batch."""
    method, batch = make("digits_vae", vae__binarize=True), batch_of()
    params = params_of("digits_vae")
    shards = (jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(2), slice(2, 4)))
    whole = loss_of(method, params, batch)[0]
    mean = np.mean([loss_of(method, params, shard)[0] for shard in shards])
    assert mean == pytest.approx(whole, rel=1e-5)


class Mirror(nn.Module):
    """The code of a picture is its pixels; the decoder says 2 whatever the code."""

    def encode(self, x):
        mean = x.reshape(len(x), -1)
        return mean, jnp.zeros_like(mean)

    def decode(self, z):
        return jnp.full((len(z), 8, 8, 1), 2.0)


def mirrored(**values):
    """A VAE whose measures show the very picture that it was shown."""
    method = make("digits_vae", model__num_latents=64, **values)
    return dataclasses.replace(method, network=Mirror())


def test_binarised_pictures():
    """Pixels are shown as -1 or 1, as often 1 as they are bright, within 5 sigma, and
    afresh under every key, for every index."""
    n, method = 600, mirrored(vae__binarize=True)
    levels = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    batch = batch_of(n) | {"image": np.tile(levels, (n, 1, 1, 1))}
    shown = evaluate(method, {"net": {}}, batch)["code"]
    assert set(np.unique(shown)) == {-1, 1}
    bright = (levels.reshape(-1) + 1) / 2
    error = np.abs((shown == 1).mean(0) - bright)
    assert np.all(error <= 5 * np.sqrt(bright * (1 - bright) / n))
    again = evaluate(method, {"net": {}}, batch, jax.random.key(8))["code"]
    # Two fair coins a pixel agree with probability p^2 + (1 - p)^2.
    agreement = (bright**2 + (1 - bright) ** 2).mean()
    assert (shown == again).mean() == pytest.approx(agreement, abs=0.02)
    assert (shown[0] == shown[1]).mean() < 0.95


def test_loss_is_of_binarised_pictures():
    """The loss compares with the coins that were shown to the encoder; without
    binarisation with the picture itself. By hand under a decoder that says 2."""
    batch = batch_of()
    u = draws(batch["index"], 0, (8, 8, 1), jax.random.uniform)
    share = (batch["image"] + 1) / 2
    for binarize, target in ((True, 1.0 * (u < share)), (False, share)):
        _, metrics = loss_of(mirrored(vae__binarize=binarize), {"net": {}}, batch)
        nats = -coins(target.reshape(4, -1), np.full((4, 64), 2.0)).mean()
        assert metrics["reconstruction"] == pytest.approx(nats, rel=1e-5)


class Plane(nn.Module):
    """z of two numbers; a picture of three pixels is W z + s eps, and W has orthogonal
    columns of squared length 2, so that each z given x is normal. `wrong` moves q."""

    wrong: float
    scale: float = 0.5
    W = np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]], np.float32)

    def encode(self, x):
        precision = 2 / self.scale**2 + 1
        mean = x.reshape(-1, 3) @ self.W / self.scale**2 / precision
        logvar = jnp.full_like(mean, -np.log(precision) + self.wrong)
        return mean + 0.3 * self.wrong, logvar

    def decode(self, z):
        return (z @ self.W.T).reshape(-1, 1, 3, 1)

    def log_evidence(self, x):
        """log N(x; 0, W W^T + s^2 I)."""
        covariance = self.W @ self.W.T + self.scale**2 * np.eye(3)
        quadratic = np.einsum("bi,ij,bj->b", x, np.linalg.inv(covariance), x)
        return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])


def plane(wrong, num_importance):
    values = {"likelihood": "gaussian", "noise_scale": Plane.scale, "binarize": False}
    method = make(
        "digits_vae",
        model__num_latents=2,
        eval__num_importance=num_importance,
        **{f"vae__{name}": value for name, value in values.items()},
    )
    return dataclasses.replace(method, network=Plane(wrong))


def of_plane(n):
    """The same picture n times, under n indices."""
    x = np.tile(np.array([0.9, 0.2, -0.4], np.float32), (n, 1))
    batch = {"index": np.arange(n, dtype=np.int32), "image": x.reshape(n, 1, 3, 1)}
    return batch, x


def test_exact_posterior_gives_the_evidence():
    """Where q is the posterior every draw's importance bound is log p(x)."""
    batch, x = of_plane(4)
    method = plane(0.0, 2)
    found = evaluate(method, {"net": {}}, batch)["importance_bound"]
    np.testing.assert_allclose(found, method.network.log_evidence(x), rtol=1e-5)


def test_importance_bound_of_one_draw_is_the_elbo():
    """Its mean over draws is minus reconstruction and KL, within 5 standard errors."""
    batch, _ = of_plane(2000)
    found = evaluate(plane(0.7, 1), {"net": {}}, batch)
    gap = found["importance_bound"] + found["reconstruction"] + found["kl"]
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))


def test_importance_bound_rises_to_the_evidence():
    """More draws tighten it, from below."""
    batch, x = of_plane(500)
    means = []
    for k in (1, 64):
        found = evaluate(plane(0.7, k), {"net": {}}, batch)["importance_bound"]
        means.append(found.mean())
    evidence = Plane(0.0).log_evidence(x)[0]
    assert means[0] + 0.05 < means[1] < evidence + 0.01
    assert means[1] == pytest.approx(evidence, abs=0.03)


def test_vae_samples():
    """A sample is the mean picture of a standard normal latent, by its index alone; a
    reconstruction is that of the posterior's mean."""
    method, batch = make("digits_vae"), batch_of()
    params, index = params_of("digits_vae"), np.array([5, 0, 5], np.int32)
    drawn = jax.jit(lambda i: method.sample(params, {}, i, KEY))(index)["image"]
    keys = prng.example_keys(KEY, index)
    z = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys))
    expected = 2 / (1 + np.exp(-decode(params["net"], z))) - 1
    np.testing.assert_allclose(drawn.reshape(3, -1), expected, atol=1e-5)
    rows = jax.jit(lambda b: method.views["reconstruction"](params, {}, b, KEY))(batch)
    mean, _ = encode(params["net"], batch["image"])
    back = 2 / (1 + np.exp(-decode(params["net"], mean))) - 1
    np.testing.assert_array_equal(rows[:, 0], batch["image"])
    np.testing.assert_allclose(rows[:, 1].reshape(4, -1), back, atol=1e-5)


# The autoencoder.


def test_autoencoder_loss_by_hand():
    """Under unit noise it is half the squared error and 32 log 2 pi; the codes' moments
    move a tenth of the way to the batch's."""
    method, batch = make("digits_autoencoder"), batch_of()
    params = params_of("digits_autoencoder")
    code, _ = encode(params["net"], batch["image"])
    error = decode(params["net"], code) - batch["image"].reshape(4, -1)
    expected = 0.5 * (error**2).sum(1).mean() + 32 * np.log(2 * np.pi)
    state = {"net": {"mean": jnp.array([1.0, -2.0]), "square": jnp.array([5.0, 6.0])}}
    loss = jax.jit(lambda p, s: method.loss("net", p, s, (), batch, KEY, STEP))
    value, aux = loss(params, state)
    assert value == pytest.approx(expected, rel=1e-5)
    moments = aux.model_state["net"]
    old = state["net"]
    np.testing.assert_allclose(
        moments["mean"], 0.9 * old["mean"] + 0.1 * code.mean(0), rtol=1e-4
    )
    np.testing.assert_allclose(
        moments["square"], 0.9 * old["square"] + 0.1 * (code**2).mean(0), rtol=1e-4
    )
    found = jax.jit(lambda p: method.evaluate(p, state, batch, KEY))(params)
    halved = np.mean((error / 2) ** 2, axis=1)
    np.testing.assert_allclose(found["squared_error"], halved, rtol=1e-4)
    np.testing.assert_allclose(found["code"], code, rtol=1e-4, atol=1e-5)


def test_codes_are_standardised():
    """With the moments of a set of codes its latents have mean 0 and spread 1, decoding
    undoes encoding, and samples have the codes' moments."""

    class Identity(nn.Module):
        def encode(self, x):
            return x.reshape(-1, 2), None

        def decode(self, z):
            return z.reshape(-1, 1, 2, 1)

    method = dataclasses.replace(make("digits_autoencoder"), network=Identity())
    codes = np.random.default_rng(0).normal([3.0, -1.0], [0.5, 2.0], (50, 2))
    codes = codes.astype(np.float32)
    index = np.arange(50, dtype=np.int32)
    batch = {"image": codes.reshape(-1, 1, 2, 1), "index": index}
    params, moments = {"net": {}}, {"mean": codes.mean(0), "square": (codes**2).mean(0)}
    state = {"net": moments}
    z = method.encode(params, state, batch, KEY)
    np.testing.assert_allclose(z.mean(0), [0, 0], atol=1e-4)
    np.testing.assert_allclose(z.std(0), [1, 1], rtol=1e-4)
    back = method.decode(params, state, z, batch)
    np.testing.assert_allclose(back, batch["image"], atol=1e-5)
    many = jnp.arange(2000)
    drawn = jax.jit(lambda i: method.sample(params, state, i, KEY))(many)["image"]
    drawn = drawn.reshape(-1, 2)
    error = 5 * codes.std(0) / np.sqrt(2000)
    assert np.all(np.abs(drawn.mean(0) - codes.mean(0)) < error)
    np.testing.assert_allclose(drawn.std(0), codes.std(0), rtol=0.08)
    few = method.sample(params, state, many[7:9], KEY)["image"].reshape(-1, 2)
    np.testing.assert_allclose(few, drawn[7:9], atol=1e-6)


def test_constant_codes_stay_finite():
    """A latent that every picture shares has no spread, and gives no NaN."""
    method, batch = make("digits_autoencoder"), batch_of()
    state = {"net": {"mean": jnp.full(2, 3.0), "square": jnp.full(2, 9.0)}}
    z = jax.jit(lambda p: method.encode(p, state, batch, KEY))(
        params_of("digits_autoencoder")
    )
    assert np.all(np.isfinite(z))


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("digits_vae", {"model__name": "nosuch"}, "model.name 'nosuch'.*dense, conv"),
        ("digits_vae", {"vae__likelihood": "poisson"}, "vae.likelihood.*bernoulli"),
        ("digits_vae", {"vae__noise_scale": 0.0}, "vae.noise_scale.*above 0"),
        ("digits_vae", {"vae__beta": -1.0}, "vae.beta.*-1"),
        ("digits_vae", {"model__num_latents": 0}, "model.num_latents.*at least 1"),
        ("digits_vae", {"eval__num_importance": 0}, "eval.num_importance.*at least 1"),
        (
            "digits_vae",
            {"vae__likelihood": "gaussian", "vae__binarize": True},
            "binarize.*'gaussian'.*bernoulli",
        ),
        ("digits_vae", {"sample__view": "nosuch"}, "sample.view 'nosuch'.*traversal"),
        (
            "digits_vae",
            {"sample__view": "manifold", "model__num_latents": 1},
            "two latents",
        ),
        ("digits_vae", {"optim__decay_start": None}, "both optim.decay_start"),
        ("digits_autoencoder", {"autoencoder__likelihood": "l2"}, "autoencoder.likeli"),
        ("digits_autoencoder", {"autoencoder__noise_scale": -1.0}, "noise_scale"),
        ("fashion_mnist_autoencoder", {"data__image_size": 9}, "image_size = 9"),
    ],
)
def test_refusals(name, change, words):
    """What cannot work is refused in words, before anything is computed."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(make(name, **change).init, KEY)

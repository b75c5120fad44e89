"""Laws of the autoencoder and of the VAE, against NumPy and a known evidence."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import compiled, images, make, task_of

from diffusion_jax import prng
from diffusion_jax.training.state import Variables

KEY = jax.random.key(4)
STEP = jnp.int32(0)
NONE = Variables({"net": {}}, {})


def batch_of(n=4, first=0):
    index = np.arange(first, first + n, dtype=np.int32)
    return {"index": index, "image": images(n)}


@functools.cache
def variables_of(name):
    """Larger than at initialisation, so that latents are not nearly 0."""
    variables, _ = make(name).init(KEY)
    params = jax.tree.map(lambda x: 2 * x + 0.02, variables.params)
    return variables._replace(params=params)


def loss_of(method, variables, batch, key=KEY):
    """The loss and its metrics, as numbers."""
    loss = method.loss("net", variables, (), batch, key, STEP)
    return float(loss.value), jax.tree.map(float, loss.metrics)


def elbo_of(method, variables, batch, key=KEY, num_importance=2):
    run = compiled("digits_vae", method, "elbo", num_importance=num_importance)
    return jax.device_get(run(variables, batch, key))


def reconstructed(name, method, variables, batch):
    """The reconstructions, and the mean squared error of each in units of [0, 1]."""
    rows = np.asarray(
        compiled(name, method, "reconstruct")(variables, batch, KEY)["rows"]
    )
    np.testing.assert_array_equal(rows[:, 0], batch["image"])
    return rows[:, 1], np.mean(((rows[:, 1] - rows[:, 0]) / 2) ** 2, axis=(1, 2, 3))


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
    """The numbers that each example draws from its own key."""
    keys = prng.fold_in(prng.example_keys(KEY, index), number)
    return np.asarray(jax.vmap(lambda key: draw(key, shape))(keys), np.float64)


def bernoulli(x, logits):
    """Log-likelihood of pixels under a Bernoulli, by example."""
    terms = x * logits - np.log1p(np.exp(-np.abs(logits))) - np.maximum(logits, 0)
    return terms.reshape(len(x), -1).sum(1)


# The variational autoencoder.


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_loss_by_hand(beta):
    """-log p(x|z) + beta KL with the same draw, in NumPy on the same weights."""
    method, batch = make("digits_vae", vae__beta=beta), batch_of()
    variables = variables_of("digits_vae")
    net = variables.params["net"]
    mean, logvar = encode(net, batch["image"])
    z = mean + np.exp(logvar / 2) * draws(batch["index"], 1, (3,))
    pixels = (batch["image"].reshape(4, -1) + 1) / 2
    nats = -bernoulli(pixels, decode(net, z)).mean()
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1).mean()
    value, metrics = loss_of(method, variables, batch)
    assert value == pytest.approx(nats + beta * kl, rel=1e-5)
    assert metrics == pytest.approx({"reconstruction": nats, "kl": kl}, rel=1e-4)


def test_elbo_by_hand():
    """Reconstruction and KL are the terms of the ELBO; the importance bound is that of
    the draws 1..k; the latent is the posterior mean, and the reconstruction its
    decoded mean."""
    method, batch = make("digits_vae"), batch_of()
    variables = variables_of("digits_vae")
    net, pixels = variables.params["net"], (batch["image"].reshape(4, -1) + 1) / 2
    mean, logvar = encode(net, batch["image"])
    weights, nats = [], []
    for number in (1, 2, 3):
        eps = draws(batch["index"], number, (3,))
        z = mean + np.exp(logvar / 2) * eps
        nats.append(bernoulli(pixels, decode(net, z)))
        log_q = -0.5 * (eps**2 + logvar).sum(1)
        weights.append(nats[-1] - 0.5 * (z**2).sum(1) - log_q)
    back = 1 / (1 + np.exp(-decode(net, mean)))
    expected = {
        "reconstruction": -nats[0],
        "kl": 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1),
        "importance_bound": np.log(np.mean(np.exp(weights), axis=0)),
        "latent": mean,
    }
    found = elbo_of(method, variables, batch, num_importance=3)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
    _, error = reconstructed("digits_vae", method, variables, batch)
    np.testing.assert_allclose(error, np.mean((back - pixels) ** 2, axis=1), rtol=1e-4)


def test_noise_is_its_examples_own():
    """The ELBO of an example depends only on its index and image: not on its place, nor
    on the other examples of the batch; another index draws other noise."""
    method, batch = make("digits_vae", vae__binarize=True), batch_of()
    variables, order = variables_of("digits_vae"), np.array([2, 0, 2, 2])
    found = elbo_of(method, variables, batch)
    again = elbo_of(method, variables, jax.tree.map(lambda x: x[order], batch))
    for name, values in found.items():
        np.testing.assert_allclose(again[name], values[order], rtol=1e-5)
    other = elbo_of(method, variables, batch | {"index": batch["index"] + 9})
    assert np.all(other["reconstruction"] != found["reconstruction"])


def test_loss_is_a_mean_over_shards():
    """The mean of the shards' losses is the loss of the whole batch."""
    method, batch = make("digits_vae", vae__binarize=True), batch_of()
    variables = variables_of("digits_vae")
    shards = (jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(2), slice(2, 4)))
    whole = loss_of(method, variables, batch)[0]
    mean = np.mean([loss_of(method, variables, shard)[0] for shard in shards])
    assert mean == pytest.approx(whole, rel=1e-5)


class Mirror(nn.Module):
    """The latent of an image is its pixels; the decoder's output is always 2."""

    def encode(self, x):
        mean = x.reshape(len(x), -1)
        return mean, jnp.zeros_like(mean)

    def decode(self, z):
        return jnp.full((len(z), 8, 8, 1), 2.0)


def mirrored(**values):
    """A VAE whose latent is the image that the encoder received."""
    method = make("digits_vae", model__num_latents=64, **values)
    return dataclasses.replace(method, network=Mirror())


def test_binarised_images():
    """Pixels become -1 or 1, with the frequency of 1 equal to their brightness, within
    5 sigma, drawn anew for every key and every index."""
    n, method = 600, mirrored(vae__binarize=True)
    levels = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    batch = batch_of(n) | {"image": np.tile(levels, (n, 1, 1, 1))}
    shown = elbo_of(method, NONE, batch)["latent"]
    assert set(np.unique(shown)) == {-1, 1}
    bright = (levels.reshape(-1) + 1) / 2
    error = np.abs((shown == 1).mean(0) - bright)
    assert np.all(error <= 5 * np.sqrt(bright * (1 - bright) / n))
    again = elbo_of(method, NONE, batch, jax.random.key(8))["latent"]
    # Two draws of a pixel agree with probability p^2 + (1 - p)^2.
    agreement = (bright**2 + (1 - bright) ** 2).mean()
    assert (shown == again).mean() == pytest.approx(agreement, abs=0.02)
    assert (shown[0] == shown[1]).mean() < 0.95


def test_loss_is_of_binarised_images():
    """The loss compares with the binarised image that the encoder received; without
    binarisation with the image itself. By hand for a decoder with the output 2."""
    batch = batch_of()
    u = draws(batch["index"], 0, (8, 8, 1), jax.random.uniform)
    share = (batch["image"] + 1) / 2
    for binarize, target in ((True, 1.0 * (u < share)), (False, share)):
        _, metrics = loss_of(mirrored(vae__binarize=binarize), NONE, batch)
        nats = -bernoulli(target.reshape(4, -1), np.full((4, 64), 2.0)).mean()
        assert metrics["reconstruction"] == pytest.approx(nats, rel=1e-5)


class Plane(nn.Module):
    """z has two entries; an image of three pixels is W z + s eps, and W has orthogonal
    columns of squared length 2, so that z given x is normal. `wrong` moves q."""

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


def bound_of(wrong, num_importance, batch):
    """The ELBO's terms and the importance bound of Plane(wrong)."""
    values = {"likelihood": "gaussian", "noise_scale": Plane.scale, "binarize": False}
    method = make(
        "digits_vae",
        model__num_latents=2,
        **{f"vae__{name}": value for name, value in values.items()},
    )
    method = dataclasses.replace(method, network=Plane(wrong))
    return elbo_of(method, NONE, batch, num_importance=num_importance)


def repeated(n):
    """The same image n times, with n indices."""
    x = np.tile(np.array([0.9, 0.2, -0.4], np.float32), (n, 1))
    return {"index": np.arange(n, dtype=np.int32), "image": x.reshape(n, 1, 3, 1)}, x


def test_exact_posterior_gives_the_evidence():
    """Where q is the posterior every draw's importance bound is log p(x)."""
    batch, x = repeated(2000)
    found = bound_of(0.0, 2, batch)["importance_bound"]
    np.testing.assert_allclose(found, Plane(0.0).log_evidence(x), rtol=1e-5)


def test_importance_bound_of_one_draw_is_the_elbo():
    """Its mean over draws is minus reconstruction and KL, within 5 standard errors."""
    found = bound_of(0.7, 1, repeated(2000)[0])
    gap = found["importance_bound"] + found["reconstruction"] + found["kl"]
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))


def test_importance_bound_rises_to_the_evidence():
    """More draws tighten it, from below."""
    batch, x = repeated(2000)
    means = [bound_of(0.7, k, batch)["importance_bound"].mean() for k in (1, 64)]
    evidence = Plane(0.0).log_evidence(x)[0]
    assert means[0] + 0.05 < means[1] < evidence + 0.01
    assert means[1] == pytest.approx(evidence, abs=0.03)


def test_vae_samples():
    """A sample is the mean image of a standard normal latent, which depends only on its
    index; a reconstruction is that of the posterior mean."""
    method, batch = make("digits_vae"), batch_of()
    variables, index = variables_of("digits_vae"), np.array([5, 0, 5, 1], np.int32)
    net = variables.params["net"]
    task = task_of("digits_vae", method, "sample")
    assert task.inputs == () and task.outputs == {"image": method.field}
    drawn = task.run(variables, {"index": index}, KEY)["image"]
    keys = prng.example_keys(KEY, index)
    z = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys))
    expected = 2 / (1 + np.exp(-decode(net, z))) - 1
    np.testing.assert_allclose(drawn.reshape(4, -1), expected, atol=1e-5)
    rows, _ = reconstructed("digits_vae", method, variables, batch)
    mean, _ = encode(net, batch["image"])
    back = 2 / (1 + np.exp(-decode(net, mean))) - 1
    np.testing.assert_allclose(rows.reshape(4, -1), back, atol=1e-5)


# The autoencoder.


def test_autoencoder_loss_by_hand():
    """With unit noise it is half the squared error plus 32 log 2 pi; the moments of the
    latents move a tenth of the way to the batch's."""
    method, batch = make("digits_autoencoder"), batch_of()
    params = variables_of("digits_autoencoder").params
    z, _ = encode(params["net"], batch["image"])
    error = decode(params["net"], z) - batch["image"].reshape(4, -1)
    expected = 0.5 * (error**2).sum(1).mean() + 32 * np.log(2 * np.pi)
    old = {"mean": np.float32([1, -2]), "square": np.float32([5, 6])}
    variables = Variables(params, {"net": old})
    loss = method.loss("net", variables, (), batch, KEY, STEP)
    assert loss.value == pytest.approx(expected, rel=1e-5)
    moments = loss.state["net"]
    np.testing.assert_allclose(
        moments["mean"], 0.9 * old["mean"] + 0.1 * z.mean(0), rtol=1e-4
    )
    np.testing.assert_allclose(
        moments["square"], 0.9 * old["square"] + 0.1 * (z**2).mean(0), rtol=1e-4
    )
    _, halved = reconstructed("digits_autoencoder", method, variables, batch)
    np.testing.assert_allclose(halved, np.mean((error / 2) ** 2, axis=1), rtol=1e-4)
    standardised = (z - old["mean"]) / np.sqrt(old["square"] - old["mean"] ** 2)
    found = method.encode(variables, batch, KEY)
    np.testing.assert_allclose(found, standardised, rtol=1e-4, atol=1e-5)


def test_latents_are_standardised():
    """With the moments of a set of points its latents have mean 0 and spread 1,
    decoding inverts encoding, and samples have the points' moments."""

    class Identity(nn.Module):
        def encode(self, x):
            return x.reshape(-1, 2), None

        def decode(self, z):
            return z.reshape(-1, 1, 2, 1)

    method = dataclasses.replace(make("digits_autoencoder"), network=Identity())
    points = np.random.default_rng(0).normal([3.0, -1.0], [0.5, 2.0], (50, 2))
    points = points.astype(np.float32)
    index = np.arange(50, dtype=np.int32)
    batch = {"image": points.reshape(-1, 1, 2, 1), "index": index}
    moments = {"mean": points.mean(0), "square": (points**2).mean(0)}
    variables = Variables({"net": {}}, {"net": moments})
    z = method.encode(variables, batch, KEY)
    np.testing.assert_allclose(z.mean(0), [0, 0], atol=1e-4)
    np.testing.assert_allclose(z.std(0), [1, 1], rtol=1e-4)
    back = method.decode(variables, z, batch)
    np.testing.assert_allclose(back, batch["image"], atol=1e-5)
    many, task = np.arange(2000), task_of("digits_autoencoder", method, "sample")
    drawn, few = (
        np.asarray(task.run(variables, {"index": i}, KEY)["image"]).reshape(-1, 2)
        for i in (many, many[7:11])
    )
    error = 5 * points.std(0) / np.sqrt(2000)
    assert np.all(np.abs(drawn.mean(0) - points.mean(0)) < error)
    np.testing.assert_allclose(drawn.std(0), points.std(0), rtol=0.08)
    np.testing.assert_allclose(few, drawn[7:11], atol=1e-6)


def test_constant_latents_stay_finite():
    """A latent that all images share has no spread, and gives no NaN."""
    state = {"net": {"mean": jnp.full(2, 3.0), "square": jnp.full(2, 9.0)}}
    variables = variables_of("digits_autoencoder")._replace(state=state)
    z = make("digits_autoencoder").encode(variables, batch_of(), KEY)
    assert np.all(np.isfinite(z))


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("digits_vae", {"model__name": "nosuch"}, "model.name 'nosuch'.*dense, conv"),
        ("digits_vae", {"vae__likelihood": "poisson"}, "vae.likelihood.*bernoulli"),
        ("digits_vae", {"vae__noise_scale": 0.0}, "vae.noise_scale.*above 0"),
        ("digits_vae", {"vae__beta": -1.0}, "vae.beta.*-1"),
        ("digits_vae", {"model__num_latents": 0}, "model.num_latents.*at least 1"),
        (
            "digits_vae",
            {"vae__likelihood": "gaussian", "vae__binarize": True},
            "binarize.*'gaussian'.*bernoulli",
        ),
        (
            "digits_vae",
            {"optim__decay_start": 3, "optim__decay_end": None},
            "decay_start = 3 requires optim.decay_end",
        ),
        ("digits_autoencoder", {"autoencoder__likelihood": "l2"}, "autoencoder.likeli"),
        ("digits_autoencoder", {"autoencoder__noise_scale": -1.0}, "noise_scale"),
        ("fashion_mnist_autoencoder", {"data__image_size": 9}, "image_size = 9"),
    ],
)
def test_refusals(name, change, words):
    """Invalid values are refused before anything is computed."""
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(make(name, **change).init, KEY)


@pytest.mark.parametrize(
    "task, options, words",
    [
        ("elbo", {"num_importance": 0}, "eval.num_importance.*at least 1"),
        ("nosuch", {}, "task of a vae model 'nosuch'.*traverse"),
    ],
)
def test_tasks_refuse(task, options, words):
    """Invalid options and unknown tasks are refused when the task is made."""
    with pytest.raises(ValueError, match=words):
        task_of("digits_vae", make("digits_vae"), task, **options)

"""Laws of pix2pix, for networks that multiply by a number, and for small ones."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import config_of, images, make, task_of

from diffusion_jax import methods
from diffusion_jax.data.base import image_field
from diffusion_jax.objectives.adversarial import GAN_LOSSES
from diffusion_jax.training.state import Variables

KEY, STEP = jax.random.key(7), jnp.int32(0)


class Scale(nn.Module):
    """y = c x, whatever the index."""

    @nn.compact
    def __call__(self, x, index=None):
        return self.param("c", nn.initializers.ones, ()) * x


class Weigh(nn.Module):
    """A score for every pixel, a x + b y, of a condition x and an image y."""

    @nn.compact
    def __call__(self, pair):
        return jnp.dot(pair, self.param("ab", nn.initializers.ones, (2,)))


PARAMS = {"gen": {"c": jnp.float32(0.5)}, "disc": {"ab": jnp.array([0.8, -0.6])}}
VARIABLES = Variables(PARAMS, {})


def batch_of(n=8, size=8):
    index = np.arange(n).astype(np.int32)
    conditions = images(n, seed=3, size=size)
    return {"index": index, "image": images(n, seed=4), "cond_image": conditions}


def loss_of(phase, batch, **changes):
    method = make("digits_pix2pix", **changes)
    method = dataclasses.replace(method, generator=Scale(), discriminator=Weigh())
    return method.loss(phase, VARIABLES, (), batch, KEY, STEP)


@pytest.mark.parametrize("loss", ["non_saturating", "least_squares", "hinge"])
@pytest.mark.parametrize("l1_weight", [0.0, 100.0])
def test_losses_by_hand(loss, l1_weight):
    """Isola et al. 2017, equations 1, 3 and 4, term by term: the discriminator sees the
    condition with either image, and its loss is halved."""
    changes = {"pix2pix__loss": loss, "pix2pix__l1_weight": l1_weight}
    batch, gan_loss = batch_of(), GAN_LOSSES[loss]
    x, y = (batch[name].astype(np.float64) for name in ("cond_image", "image"))
    real, fake = 0.8 * x - 0.6 * y, 0.8 * x - 0.6 * 0.5 * x
    adversarial = float(np.mean(gan_loss.generator(fake)))
    distance = np.abs(y - 0.5 * x).mean()
    found = loss_of("gen", batch, **changes)
    expected = adversarial + l1_weight * distance
    assert found.value == pytest.approx(expected, rel=1e-5)
    terms = {"adversarial": adversarial, "l1": distance}
    assert jax.tree.map(float, found.metrics) == pytest.approx(terms, rel=1e-4)
    found = loss_of("disc", batch, **changes)
    expected = float(np.mean(gan_loss.discriminator(real, fake))) / 2
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert "accuracy_real" in found.metrics


def test_minimax_terms():
    """1/2 (-log D(x, y) - log(1 - D(x, G(x)))) and -log D(x, G(x)), D a sigmoid."""
    batch = batch_of()
    x, y = (batch[name].astype(np.float64) for name in ("cond_image", "image"))
    real, fake = (1 / (1 + np.exp(-0.8 * x + 0.6 * z)) for z in (y, 0.5 * x))
    expected = -np.mean(np.log(real) + np.log(1 - fake)) / 2
    assert loss_of("disc", batch).value == pytest.approx(expected, rel=1e-5)
    found = loss_of("gen", batch, pix2pix__l1_weight=0.0)
    assert found.value == pytest.approx(-np.mean(np.log(fake)), rel=1e-5)


def test_phases():
    """The discriminator comes first, and each phase trains its own network."""
    phases = make("digits_pix2pix").phases
    assert [(x.name, x.trains) for x in phases] == [
        ("disc", ("disc",)),
        ("gen", ("gen",)),
    ]


def fields_of(size, channels):
    shape = (size, size, channels)
    return {"image": image_field((8, 8, 1)), "cond_image": image_field(shape)}


@functools.cache
def trained(dropout=0.5):
    """A method and its first weights, scaled up so that noise changes the image."""
    method = make("digits_pix2pix", model__dropout=dropout)
    variables, _ = method.init(KEY)
    return method, jax.tree.map(lambda x: 10 * x, variables)


def run(name, method, variables, batch, key):
    task = task_of("digits_pix2pix", method, name)
    batch = {key: batch[key] for key in ("index", *task.inputs)}
    (outputs,) = jax.jit(task.run)(variables, batch, key).values()
    return outputs


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_noise_of_samples(dropout):
    """The noise is dropout: it depends on the key and the example's index, not on its
    place in the batch; without dropout there is none."""
    method, variables = trained(dropout)
    batch = batch_of()
    sample = functools.partial(run, "sample", method, variables)
    one, again = sample(batch, KEY), sample(batch, KEY)
    np.testing.assert_array_equal(one, again)
    other = np.abs(sample(batch, jax.random.key(8)) - one).max(axis=(1, 2, 3))
    assert np.all((other > 1e-3) == (dropout > 0))
    backwards = sample(jax.tree.map(lambda x: x[::-1], batch), KEY)
    np.testing.assert_allclose(backwards[::-1], one, atol=1e-5)
    same = batch | {"cond_image": np.repeat(batch["cond_image"][:1], 8, axis=0)}
    spread = np.ptp(sample(same, KEY), axis=0).max()
    assert (spread > 1e-3) == (dropout > 0)


@pytest.mark.parametrize("size, channels", [(4, 1), (8, 1), (16, 1), (8, 3)])
def test_conditions_of_any_shape(size, channels):
    """A condition is resized to the images and may have other channels."""
    method = methods.make(config_of("digits_pix2pix"), fields_of(size, channels))
    variables, _ = method.init(KEY)
    batch = batch_of(2, size)
    batch["cond_image"] = np.repeat(batch["cond_image"], channels, axis=3)
    image = run("sample", method, variables, batch, KEY)
    assert image.shape == (2, 8, 8, 1) and np.all(np.isfinite(image))
    for phase in ("disc", "gen"):
        assert np.isfinite(method.loss(phase, variables, (), batch, KEY, STEP).value)
    shape = (2, 8, 8, channels)
    resized = jax.image.resize(batch["cond_image"], shape, "bilinear")
    resized = batch | {"cond_image": resized}
    found = run("sample", method, variables, resized, KEY)
    np.testing.assert_allclose(found, image, atol=1e-6)


def test_translate():
    """The columns are the condition, four different samples, and the target; without
    noise they are what the task sample makes."""
    batch = batch_of(4)
    rows = run("translate", *trained(), batch, KEY)
    assert rows.shape == (4, 6, 8, 8, 1)
    np.testing.assert_array_equal(rows[:, 0], batch["cond_image"])
    np.testing.assert_array_equal(rows[:, 5], batch["image"])
    assert np.ptp(rows[:, 1:5], axis=1).max() > 1e-3
    rows = run("translate", *trained(0.0), batch, KEY)
    expected = run("sample", *trained(0.0), batch, KEY)
    np.testing.assert_allclose(rows[:, 1:5], expected[:, None].repeat(4, 1), atol=1e-5)

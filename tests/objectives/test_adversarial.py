"""Adversarial losses by hand, and penalties against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objectives import adversarial
from diffusion_jax.objectives.adversarial import GAN_LOSSES

LOGITS = np.array([-3.0, -0.4, 0.0, 0.7, 2.5])
FAR = 1e4


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


EXPECTED = {  # of the discriminator (real, fake), and of the generator (fake)
    "minimax": (
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda f: np.log(1 - sigmoid(f)),
    ),
    "non_saturating": (
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda f: -np.log(sigmoid(f)),
    ),
    "hinge": (
        lambda r, f: np.maximum(0, 1 - r) + np.maximum(0, 1 + f),
        lambda f: -f,
    ),
    "wasserstein": (lambda r, f: f - r, lambda f: -f),
    "least_squares": (
        lambda r, f: ((r - 1) ** 2 + f**2) / 2,
        lambda f: (f - 1) ** 2,
    ),
}


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_losses_by_hand(name):
    """Each network's loss is the published formula, elementwise."""
    real, fake = (x.ravel() for x in np.meshgrid(LOGITS, LOGITS))
    discriminator, generator = EXPECTED[name]
    loss = GAN_LOSSES[name]
    np.testing.assert_allclose(
        loss.discriminator(real, fake), discriminator(real, fake), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        loss.generator(fake), generator(fake), rtol=1e-5, atol=1e-6
    )


SLOPES = {  # (d loss of D / d real, / d fake, d loss of G / d fake)
    "minimax": (lambda r: -sigmoid(-r), sigmoid, lambda f: -sigmoid(f)),
    "non_saturating": (lambda r: -sigmoid(-r), sigmoid, lambda f: -sigmoid(-f)),
    "hinge": (lambda r: -1.0 * (r < 1), lambda f: 1.0 * (f > -1), lambda f: -1 + 0 * f),
    "wasserstein": (lambda r: -1 + 0 * r, lambda f: 1 + 0 * f, lambda f: -1 + 0 * f),
    "least_squares": (lambda r: r - 1, lambda f: f, lambda f: 2 * (f - 1)),
}


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_gradients(name):
    """The derivatives in the logits; the saturating one vanishes where D is certain."""
    loss, logits = GAN_LOSSES[name], jnp.asarray(LOGITS, jnp.float32)
    by_real, by_fake = jax.vmap(jax.grad(loss.discriminator, (0, 1)))(logits, logits)
    by_generator = jax.vmap(jax.grad(loss.generator))(logits)
    for found, slope in zip((by_real, by_fake, by_generator), SLOPES[name]):
        np.testing.assert_allclose(found, slope(LOGITS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_finite_far_out(name):
    """At logits of 10,000 the losses are their asymptotes and gradients are finite."""
    loss = GAN_LOSSES[name]
    far = jnp.array([-FAR, FAR])
    slopes = jax.vmap(jax.grad(loss.discriminator, (0, 1)))(far, far)
    slopes += (jax.vmap(jax.grad(loss.generator))(far),)
    assert np.all(np.isfinite(slopes))
    # Real at +, fake at -: a discriminator that is right, and the reverse.
    right, wrong = (loss.discriminator(r, f) for r, f in ((FAR, -FAR), (-FAR, FAR)))
    assert np.isfinite(right) and np.isfinite(wrong)
    if name in ("minimax", "non_saturating"):
        assert (right, wrong) == (0, 2 * FAR)
        sure = {"minimax": 0, "non_saturating": FAR}[name]
        assert loss.generator(-FAR) == sure


@pytest.mark.parametrize("name", ["minimax", "wasserstein"])
def test_zero_sum(name):
    """For these two, the generator loses what the discriminator gains."""
    loss, fake = GAN_LOSSES[name], jnp.asarray(LOGITS)
    total = loss.discriminator(jnp.zeros_like(fake), fake) + loss.generator(fake)
    np.testing.assert_allclose(total, jnp.full_like(fake, total[0]), rtol=1e-5)


@pytest.mark.parametrize("p, q", [(0.5, 0.5), (0.8, 0.1), (0.05, 0.6)])
@pytest.mark.parametrize("name", ["minimax", "non_saturating", "least_squares"])
def test_best_discriminator(name, p, q):
    """For densities p of the data and q of fakes, the optimal logit is log(p / q), and
    the optimal least-squares score is p / (p + q): there the gradient is 0. Where p = q
    it is the decision threshold."""
    loss = GAN_LOSSES[name]
    best = p / (p + q) if name == "least_squares" else np.log(p / q)
    by_real, by_fake = jax.grad(loss.discriminator, (0, 1))(best, best)
    assert p * by_real + q * by_fake == pytest.approx(0, abs=1e-6)
    if p == q:
        assert best == loss.threshold


def test_loss_of_an_uninformative_discriminator():
    """At logits of 0 it is 2 log 2, the optimum (Goodfellow et al., theorem 1)."""
    value = adversarial.cross_entropy(jnp.zeros(3), jnp.zeros(3))
    np.testing.assert_allclose(value, np.full(3, 2 * np.log(2)), rtol=1e-6)


# Penalties.


def smooth(params, x):
    """A critic of two layers: [B, ...] -> [B]."""
    hidden = jnp.tanh(x.reshape(len(x), -1) @ params["first"])
    return jnp.tanh(hidden @ params["second"]) + 0.3 * jnp.sum(hidden, axis=1)


def smooth_params():
    return {"first": draw(4, 5, seed=1), "second": draw(5, seed=2)}


def slopes(critic, x, step=1e-5):
    """|grad D(x)|^2 of each example by central differences, [B]."""
    squared = np.zeros(len(x))
    for place in np.ndindex(x.shape[1:]):
        shift = np.zeros_like(x)
        shift[(slice(None), *place)] = step
        squared += ((critic(x + shift) - critic(x - shift)) / (2 * step)) ** 2
    return squared


def images(seed):
    return draw(3, 2, 2, 1, seed=seed)


def test_penalties_are_finite_differences(x64):
    """Both penalties of each example agree with central differences."""
    params, real, fake = smooth_params(), images(3), images(4)
    critic = jax.jit(lambda x: smooth(params, x))
    weight = np.array([0.0, 0.25, 1.0])
    share = weight[:, None, None, None]
    between = slopes(critic, share * real + (1 - share) * fake)
    found = adversarial.gradient_penalty(critic, real, fake, weight)
    np.testing.assert_allclose(found, (np.sqrt(between) - 1) ** 2, rtol=1e-6)
    found = adversarial.r1_penalty(critic, real)
    np.testing.assert_allclose(found, slopes(critic, real) / 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["gradient_penalty", "r1_penalty"])
def test_penalties_train(name, x64):
    """Penalties' gradients in the critic's parameters agree with finite differences."""
    real, fake, weight = images(3), images(4), np.array([0.1, 0.5, 0.8])

    @jax.jit
    def total(params):
        critic = lambda x: smooth(params, x)  # noqa: E731
        if name == "r1_penalty":
            return jnp.sum(adversarial.r1_penalty(critic, real))
        return jnp.sum(adversarial.gradient_penalty(critic, real, fake, weight))

    params, step = smooth_params(), 1e-5
    grads = jax.jit(jax.grad(total))(params)
    for layer, values in params.items():
        for place in np.ndindex(values.shape):
            up, down = values.copy(), values.copy()
            up[place] += step
            down[place] -= step
            rise = total(params | {layer: up}) - total(params | {layer: down})
            expected = float(rise) / (2 * step)
            assert grads[layer][place] == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_penalties_of_a_plane():
    """A linear critic has the gradient norm |a|: (|a| - 1)^2 and |a|^2 / 2."""
    plane = np.array([[1.0, 2.0], [0.0, -2.0]], np.float32)[..., None]  # of length 3

    def critic(x):
        return jnp.sum(x * plane[None], axis=(1, 2, 3)) + 5

    real, fake = (jnp.asarray(images(seed), jnp.float32) for seed in (1, 2))
    weight = jnp.array([0.0, 0.3, 1.0])
    found = adversarial.gradient_penalty(critic, real, fake, weight)
    np.testing.assert_allclose(found, [4.0] * 3, rtol=1e-5)
    np.testing.assert_allclose(adversarial.r1_penalty(critic, real), [4.5] * 3)


def test_penalties_are_each_examples_own():
    """A penalty does not depend on the other examples of the batch."""
    params = jax.tree.map(lambda x: x.astype(np.float32), smooth_params())
    real, fake = (jnp.asarray(images(seed), jnp.float32) for seed in (5, 6))
    weight = jnp.array([0.2, 0.4, 0.9])

    @jax.jit
    def both(real, fake, weight):
        critic = lambda x: smooth(params, x)  # noqa: E731
        among = adversarial.gradient_penalty(critic, real, fake, weight)
        return among, adversarial.r1_penalty(critic, real)

    together = both(real, fake, weight)
    alone = both(real[1:2], fake[1:2], weight[1:2])
    others = both(real.at[0].add(3.0), fake.at[2].add(3.0), weight)
    for one, two, three in zip(together, alone, others):
        np.testing.assert_allclose([two[0], three[1]], [one[1], one[1]], rtol=1e-5)


def test_flat_critic_has_a_gradient():
    """A constant critic has penalty 1, and its gradient is finite."""
    real, fake, weight = jnp.ones((2, 3)), jnp.zeros((2, 3)), jnp.array([0.5, 0.5])

    def total(scale):
        critic = lambda x: scale * jnp.sum(x, axis=1)  # noqa: E731
        return jnp.sum(adversarial.gradient_penalty(critic, real, fake, weight))

    value, gradient = jax.jit(jax.value_and_grad(total))(0.0)
    assert value == pytest.approx(2, abs=1e-5)
    assert np.isfinite(gradient)

"""Laws of the norms as the networks configure them: formulas, devices, independence."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffusion_jax.models.dcgan import batch_norm
from diffusion_jax.models.translation import instance_norm

SHAPES = [(6, 3), (4, 2, 3, 5)]


class BatchNorm(nn.Module):
    """DCGAN's batch norm."""

    axis_name: str | None = None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train):
        return batch_norm(x, train, self.axis_name, self.momentum, "norm")


class InstanceNorm(nn.Module):
    """The image-to-image networks' instance norm."""

    @nn.compact
    def __call__(self, x):
        return instance_norm(x)


def draw(shape, offset=0.0, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (offset + rng.standard_normal(shape)).astype(np.float32)


def random_variables(channels: int, **params) -> dict:
    """Parameters and running statistics without zeros and ones, which hide mistakes."""
    scale, bias, mean, log_var = draw((4, channels), seed=1)
    params = {"scale": scale, "bias": bias} | params
    return {
        "params": {"norm": params},
        "batch_stats": {"norm": {"mean": mean, "var": np.exp(log_var)}},
    }


def standard_variables(channels: int) -> dict:
    return random_variables(channels, scale=np.ones(channels), bias=np.zeros(channels))


def formula(x, mean, var, scale=1.0, bias=0.0) -> np.ndarray:
    """Algorithm 1 of the paper, in float64."""
    x = x.astype(np.float64)
    return scale * (x - mean) / np.sqrt(var + 1e-5) + bias


def update(norm, variables, x, train=True):
    """The output, and the new running statistics."""
    y, new = norm.apply(variables, x, train, mutable=["batch_stats"])
    return y, new["batch_stats"]["norm"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.8, 0.0])
def test_training_uses_and_averages_the_batch(shape, momentum):
    """The formula with the batch's moments; running averages keep a share `momentum` of
    the old values, and with momentum 0 they are the batch's moments."""
    x, variables = draw(shape, offset=2.0), random_variables(shape[-1])
    y, new = update(BatchNorm(momentum=momentum), variables, x)
    axes = tuple(range(len(shape) - 1))
    mean, var = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
    expected = formula(x, mean, var, **variables["params"]["norm"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    old = variables["batch_stats"]["norm"]
    for name, now in (("mean", mean), ("var", var)):
        expected = momentum * old[name] + (1 - momentum) * now
        np.testing.assert_allclose(new[name], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_inference_uses_the_running_averages(shape):
    """Without train the formula has the running averages, which stay as they are."""
    x, variables = draw(shape), random_variables(shape[-1])
    y, new = update(BatchNorm(), variables, x, train=False)
    old = variables["batch_stats"]["norm"]
    expected = formula(x, **old, **variables["params"]["norm"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for name, value in old.items():
        np.testing.assert_array_equal(new[name], value)


def test_variance_is_exact_far_from_zero():
    """Two-pass moments: at mean 1000 and deviation 1 they are right to 1 in 10^4.

    In float32 E[x^2] - E[x]^2 would be off by about 1e6 * 6e-8 = 0.06 there.
    """
    y, _ = update(BatchNorm(), standard_variables(2), draw((512, 2), offset=1000.0))
    np.testing.assert_allclose(np.std(y, axis=0), 1.0, atol=1e-4)
    np.testing.assert_allclose(np.mean(y, axis=0), 0.0, atol=5e-4)


def test_initialization():
    """Running averages start at 0 and 1 even with train=True, and no axis is needed.

    Scales are N(1, 0.02^2): mean and deviation within five standard errors.
    """
    x = draw((4, 2000), offset=5.0)
    variables = BatchNorm("devices").init(jax.random.key(0), x, True)
    statistics, params = variables["batch_stats"]["norm"], variables["params"]["norm"]
    np.testing.assert_array_equal(statistics["mean"], np.zeros(2000))
    np.testing.assert_array_equal(statistics["var"], np.ones(2000))
    np.testing.assert_array_equal(params["bias"], np.zeros(2000))
    scale = np.asarray(params["scale"])
    assert abs(scale.mean() - 1.0) < 5 * 0.02 / np.sqrt(2000)
    assert abs(scale.std() - 0.02) < 5 * 0.02 / np.sqrt(2 * 2000)


def test_devices_change_nothing():
    """With an axis name, eight shards are normalized like one batch.

    The outputs, the new averages on every device, and the gradient of the mean of the
    shards' losses are equal.
    """
    variables, x, target = random_variables(3), draw((16, 5, 3)), draw((16, 5, 3))

    def loss(params, x, target, norm):
        y, new = update(norm, variables | {"params": params}, x)
        return jnp.mean((y - target) ** 2), (y, new)

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def on_device(params, x, target):
        results, (of_params, of_x) = gradient(params, x, target, BatchNorm("devices"))
        return results, (lax.pmean(of_params, "devices"), of_x)

    whole = jax.jit(functools.partial(gradient, norm=BatchNorm()))
    (_, (y, new)), (of_params, of_x) = whole(variables["params"], x, target)
    split = [a.reshape(8, 2, 5, 3) for a in (x, target)]
    mapped = jax.pmap(on_device, axis_name="devices", in_axes=(None, 0, 0))
    (_, (shards, news)), (of_params8, of_x8) = mapped(variables["params"], *split)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(shards.reshape(x.shape), y)
    # A shard's loss is the mean over an eighth: its gradient is eight times as large.
    close(of_x8.reshape(x.shape) / 8, of_x)
    for name in ("mean", "var"):
        for device in range(8):
            close(news[name][device], new[name])
    for name in ("scale", "bias"):
        close(of_params8["norm"][name][0], of_params["norm"][name])


def test_law_of_total_variance():
    """Without an axis name every device uses the moments of its own shard, and the
    batch's variance is their mean variance plus the variance of their means."""
    variables, x = random_variables(3), draw((8, 2, 3))
    local, norm = BatchNorm(momentum=0.0), BatchNorm("devices", momentum=0.0)
    y, new = jax.pmap(lambda x: update(local, variables, x))(x)
    for device in range(8):
        alone, _ = update(local, variables, x[device])
        np.testing.assert_allclose(y[device], alone, rtol=1e-5, atol=1e-6)
    shared = jax.vmap(lambda x: update(norm, variables, x)[1], axis_name="devices")(x)
    total = np.mean(new["var"], axis=0) + np.var(new["mean"], axis=0)
    np.testing.assert_allclose(shared["var"][0], total, rtol=1e-5)


@pytest.mark.parametrize("norm", [BatchNorm(), InstanceNorm()])
def test_bfloat16_keeps_its_type_and_exact_moments(norm):
    """bfloat16 goes in and out; moments are in float32, right to 1 in 1000.

    A sum of 4096 ones in bfloat16 would stop at 256.
    """
    x = jnp.asarray(draw((1, 64, 64, 2), offset=1.0), jnp.bfloat16)
    if isinstance(norm, BatchNorm):
        y, new = update(norm, standard_variables(2), x)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))
    else:
        y = norm.apply({}, x)
    assert y.dtype == jnp.bfloat16
    wide = np.asarray(y, np.float64)
    np.testing.assert_allclose(wide.mean((0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(wide.std((0, 1, 2)), 1.0, atol=1e-3)


def test_instance_norm_formula():
    """Each image and channel is normalized by its own moments, without variables."""
    x = draw((3, 4, 5, 2), offset=3.0)
    y, variables = InstanceNorm().init_with_output(jax.random.key(0), x)
    assert not variables
    wide = x.astype(np.float64)
    mean, var = (f((1, 2), keepdims=True) for f in (wide.mean, wide.var))
    np.testing.assert_allclose(y, formula(x, mean, var), rtol=1e-5, atol=1e-5)


def test_instance_norm_ignores_contrast_and_brightness():
    """norm(a x + b) = norm(x) for a > 0 and b of each image and channel.

    Values of 100 make epsilon negligible.
    """
    x = 100 * draw((3, 8, 8, 2))
    a, b = np.exp(draw((3, 1, 1, 2), seed=1)), 100 * draw((3, 1, 1, 2), seed=2)
    norm = InstanceNorm()
    np.testing.assert_allclose(norm.apply({}, a * x + b), norm.apply({}, x), atol=1e-5)

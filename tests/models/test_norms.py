"""Laws of the norms: their formulas, devices, and what depends on what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffusion_jax.models.norms import BatchNorm, InstanceNorm

SHAPES = [(6, 3), (4, 2, 3, 5)]


def draw(shape, offset=0.0, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (offset + rng.standard_normal(shape)).astype(np.float32)


def random_variables(channels: int) -> dict:
    """Parameters and running statistics without zeros and ones, which hide mistakes."""
    scale, bias, mean, log_var = draw((4, channels), seed=1)
    return {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": np.exp(log_var)},
    }


def formula(x, mean, var, scale=1.0, bias=0.0) -> np.ndarray:
    """Algorithm 1 of the paper, in float64."""
    x = x.astype(np.float64)
    return scale * (x - mean) / np.sqrt(var + 1e-5) + bias


@pytest.mark.parametrize("shape", SHAPES)
def test_training_uses_and_remembers_the_batch(shape):
    """The formula with the batch's moments; running averages keep 0.8 and take 0.2."""
    x, variables = draw(shape, offset=2.0), random_variables(shape[-1])
    y, new = BatchNorm(momentum=0.8).apply(variables, x, True, mutable=["batch_stats"])
    axes = tuple(range(len(shape) - 1))
    mean, var = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
    expected = formula(x, mean, var, **variables["params"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for name, now in (("mean", mean), ("var", var)):
        expected = 0.8 * variables["batch_stats"][name] + 0.2 * now
        np.testing.assert_allclose(new["batch_stats"][name], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_otherwise_the_running_averages(shape):
    """Without train the formula has the running averages, which stay as they are."""
    x, variables = draw(shape), random_variables(shape[-1])
    y, new = BatchNorm().apply(variables, x, False, mutable=["batch_stats"])
    expected = formula(x, **variables["batch_stats"], **variables["params"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for name, value in variables["batch_stats"].items():
        np.testing.assert_array_equal(new["batch_stats"][name], value)


def test_variance_is_exact_far_from_zero():
    """Moments in two passes: at mean 1000 and deviation 1 a digit in 10^4 is right.

    In float32 E[x^2] - E[x]^2 would be off by some 1e6 * 6e-8 = 0.06 there.
    """
    x = draw((512, 2), offset=1000.0)
    y, _ = BatchNorm().apply(
        random_variables(2) | {"params": {"scale": np.ones(2), "bias": np.zeros(2)}},
        x,
        True,
        mutable=["batch_stats"],
    )
    np.testing.assert_allclose(np.std(y, axis=0), 1.0, atol=1e-4)
    np.testing.assert_allclose(np.mean(y, axis=0), 0.0, atol=5e-4)


def test_initialisation():
    """Running averages start at 0 and 1 also by train=True, and nothing is averaged.

    Scales are N(1, 0.02^2): mean and deviation within five standard errors.
    """
    average = functools.partial(lax.pmean, axis_name="devices")  # unknown out here
    x = draw((4, 2000), offset=5.0)
    variables = BatchNorm(average).init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(2000))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(2000))
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(2000))
    scale = np.asarray(variables["params"]["scale"])
    assert abs(scale.mean() - 1.0) < 5 * 0.02 / np.sqrt(2000)
    assert abs(scale.std() - 0.02) < 5 * 0.02 / np.sqrt(2 * 2000)


def test_devices_change_nothing():
    """With the mean over devices as `average`, eight shards are one batch.

    The same outputs, the same new averages everywhere, and the same gradient of the
    mean of the shards' losses.
    """
    variables, x, target = random_variables(3), draw((16, 5, 3)), draw((16, 5, 3))

    def loss(params, x, target, norm):
        full = variables | {"params": params}
        y, new = norm.apply(full, x, True, mutable=["batch_stats"])
        return jnp.mean((y - target) ** 2), (y, new)

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def on_device(params, x, target):
        average = functools.partial(lax.pmean, axis_name="devices")
        results, (of_params, of_x) = gradient(params, x, target, BatchNorm(average))
        return results, (average(of_params), of_x)

    (_, (y, new)), (of_params, of_x) = gradient(
        variables["params"], x, target, BatchNorm()
    )
    split = [a.reshape(8, 2, 5, 3) for a in (x, target)]
    mapped = jax.pmap(on_device, axis_name="devices", in_axes=(None, 0, 0))
    (_, (shards, news)), (of_params8, of_x8) = mapped(variables["params"], *split)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(shards.reshape(x.shape), y)
    # A shard's loss is the mean of an eighth: its gradient is eight times as large.
    close(of_x8.reshape(x.shape) / 8, of_x)
    for name in ("mean", "var"):
        for device in range(8):
            close(news["batch_stats"][name][device], new["batch_stats"][name])
    for name in ("scale", "bias"):
        close(of_params8[name][0], of_params[name])


def test_without_average_devices_differ():
    """By default every device has the statistics of its own share."""
    norm, variables, x = BatchNorm(), random_variables(3), draw((8, 2, 3))
    mapped = jax.pmap(lambda x: norm.apply(variables, x, True, mutable=["batch_stats"]))
    y, _ = mapped(x)
    for device in range(8):
        alone, _ = norm.apply(variables, x[device], True, mutable=["batch_stats"])
        np.testing.assert_allclose(y[device], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [BatchNorm(), InstanceNorm()])
def test_bfloat16_keeps_its_type_and_exact_moments(norm):
    """bfloat16 goes in and out; moments are float32's, right to 1 in 1000.

    A sum of 4096 ones in bfloat16 would stop at 256.
    """
    x = jnp.asarray(draw((1, 64, 64, 2), offset=1.0), jnp.bfloat16)
    if isinstance(norm, BatchNorm):
        y, new = norm.apply(
            random_variables(2)
            | {"params": {"scale": np.ones(2), "bias": np.zeros(2)}},
            x,
            True,
            mutable=["batch_stats"],
        )
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))
    else:
        y = norm.apply({}, x)
    assert y.dtype == jnp.bfloat16
    wide = np.asarray(y, np.float64)
    np.testing.assert_allclose(wide.mean((0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(wide.std((0, 1, 2)), 1.0, atol=1e-3)


def test_instance_norm_formula():
    """Each example and channel by its own moments; nothing is learned or remembered."""
    x = draw((3, 4, 5, 2), offset=3.0)
    y, variables = InstanceNorm().init_with_output(jax.random.key(0), x)
    assert not variables
    wide = x.astype(np.float64)
    mean, var = (f((1, 2), keepdims=True) for f in (wide.mean, wide.var))
    np.testing.assert_allclose(y, formula(x, mean, var), rtol=1e-5, atol=1e-5)


def test_instance_norm_forgets_contrast_and_brightness():
    """norm(a x + b) = norm(x) for a > 0 and b of each example and channel."""
    x = draw((3, 8, 8, 2))
    a, b = np.exp(draw((3, 1, 1, 2), seed=1)), draw((3, 1, 1, 2), seed=2)
    norm = InstanceNorm(epsilon=1e-9)
    np.testing.assert_allclose(norm.apply({}, a * x + b), norm.apply({}, x), atol=1e-5)

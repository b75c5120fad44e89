"""Laws of the average of the parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import ema


def run(decay, values):
    """Averages f32 scalars from ema = 7; returns the average after each of them."""

    def step(carry, number_and_value):
        number, value = number_and_value
        average = ema.update({"x": carry}, {"x": value}, decay(number))["x"]
        return average, average

    values = jnp.asarray(values, jnp.float32)
    numbers = jnp.arange(len(values))
    return np.asarray(jax.lax.scan(step, jnp.float32(7.0), (numbers, values))[1])


@pytest.mark.parametrize("warmup", [False, True])
def test_first_step_copies(warmup):
    """After one step nothing of the initial average is left."""
    assert run(ema.make_decay(0.9999, warmup), [0.3]) == pytest.approx([0.3], rel=1e-6)


def test_closed_form():
    """ema_n = d^(n-1) x_1 + (1-d) sum_(k=2..n) d^(n-k) x_k, summed in float64."""
    decay, values = 0.9, np.random.default_rng(0).normal(size=40)
    weights = (1 - decay) * decay ** np.arange(39, -1, -1.0)
    weights[0] = decay**39
    found = run(ema.make_decay(decay, False), values)[-1]
    assert found == pytest.approx(weights @ values, rel=1e-5)


def test_half_life():
    """At decay 0.9999 half of a value is left after 6931 steps (ln 2 / -ln 0.9999)."""
    assert math.floor(math.log(2) / -math.log(0.9999)) == 6931
    averages = run(ema.make_decay(0.9999, False), [1.0] + [0.0] * 6932)
    assert averages[6931] == pytest.approx(0.5, rel=1e-3)


def test_warmup_formula():
    """With warmup the decay is min(decay, (1 + n) / (10 + n)), n = 0 at the second
    step: TensorFlow's ExponentialMovingAverage with num_updates = n."""
    decay = ema.make_decay(0.95, True)
    found = [float(decay(jnp.int32(step))) for step in range(1, 400)]
    expected = [min(0.95, (1 + n) / (10 + n)) for n in range(399)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[-1] == pytest.approx(0.95)


def test_decay_zero_follows():
    """A decay of 0 keeps no memory at all."""
    np.testing.assert_allclose(run(ema.make_decay(0.0, False), [1.0, -2.0]), [1, -2])


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, math.nan])
def test_decay_outside_is_refused(decay):
    """A decay outside [0, 1) is refused by the name of its key."""
    with pytest.raises(ValueError, match="optim.ema_decay"):
        ema.make_decay(decay, False)

"""From a network's output to x_0, whatever it predicts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from absl.testing import parameterized

from diffusion_jax.diffusion import guidance, process, schedules

BETAS = np.linspace(1e-4, 0.02, 1000)
DATA = textbook.Gaussian(mean=0.3, std=0.5, betas=BETAS)
TIMES = np.array([1, 2, 10, 100, 500, 1000])


class FromNetworkTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(prediction=[*process.PREDICTIONS])
    def test_exact_networks_agree(self, prediction):
        """The perfect network of each prediction denoises to the same E[x_0 | x_t].

        To float32's 2^-24 over the weight of the prediction: alpha for eps, that of x_0
        in the posterior mean for mu.
        """
        schedule = schedules.make("linear", 1000)
        network = DATA.network(prediction)
        denoise = self.variant(guidance.from_network(network, prediction, schedule))
        rng = np.random.default_rng(0)
        x_t = jnp.asarray(rng.normal(size=(len(TIMES), 3)), jnp.float32)
        alpha_bar = textbook.table(BETAS).alpha_bar[TIMES - 1]
        expected = DATA.x_0(x_t, jnp.float32(alpha_bar)[:, None])
        weight = {
            "eps": np.sqrt(alpha_bar),
            "mu": textbook.table(BETAS).of_x_0[TIMES - 1],
        }.get(prediction, np.ones(len(TIMES)))
        error = np.abs(denoise(x_t, jnp.asarray(TIMES)) - expected).max(1)
        assert np.all(error * weight < 40 * 2**-24)

    @chex.variants(with_jit=True, without_jit=True)
    def test_time_of_the_network(self):
        """The network hears the authors' t - 1, i32, one an example: 0..T-1."""
        schedule = schedules.make("linear", 4)

        def network(x_t, t):
            chex.assert_shape(t, (2,))
            assert t.dtype == jnp.int32
            return jnp.broadcast_to(t[:, None].astype(jnp.float32), x_t.shape)

        denoise = self.variant(guidance.from_network(network, "x0", schedule))
        x_t = jnp.zeros((2, 3))
        for t in (1, 4):  # a scalar, as samplers say it
            np.testing.assert_array_equal(denoise(x_t, jnp.asarray(t)), t - 1)
        each = denoise(x_t, jnp.array([1, 4]))
        np.testing.assert_array_equal(each, [[0, 0, 0], [3, 3, 3]])

    @chex.variants(with_jit=True, without_jit=True)
    def test_clipped(self):
        """The predicted x_0 is held within [-1, 1], and left alone inside."""
        denoise = self.variant(guidance.clipped(lambda x_t, t: x_t))
        x_t = jnp.array([[-3.0, -1.0, -0.4, 0.0, 0.9, 1.0, 2.0]])
        expected = [[-1.0, -1.0, -0.4, 0.0, 0.9, 1.0, 1.0]]
        actual = denoise(x_t, jnp.asarray(1))
        np.testing.assert_array_equal(actual, np.float32(expected))


def test_zero_noise_predicted():
    """eps = 0 means that x_t is signal alone: x_0 = x_t / alpha_t (equation 15)."""
    schedule = schedules.make("linear", 1000)
    denoise = guidance.from_network(lambda x_t, t: 0 * x_t, "eps", schedule)
    x_t = jnp.ones((1, 2))
    alpha = np.sqrt(textbook.table(BETAS).alpha_bar[-1])
    np.testing.assert_allclose(denoise(x_t, jnp.asarray(1000)), 1 / alpha, rtol=2e-6)


def test_unknown_prediction():
    """A name that is not in the table is refused with those that are."""
    schedule = schedules.make("linear", 10)
    with pytest.raises(ValueError, match="'noise'.*eps.*x0.*v.*mu"):
        guidance.from_network(lambda x_t, t: x_t, "noise", schedule)


@pytest.mark.parametrize("prediction", ["x0", "v", "mu"])
def test_pure_noise(prediction):
    """From jsd's T, where no signal is left, all but eps denoise to a finite x_0.

    A perfect network says the data's mean there.
    """
    data = textbook.Gaussian(0.3, 0.5, 1 / np.arange(10.0, 0, -1))
    schedule = schedules.make("jsd", 10)
    denoise = guidance.from_network(data.network(prediction), prediction, schedule)
    x_t = jnp.linspace(-2, 2, 8).reshape(2, 4)
    actual = jax.jit(denoise)(x_t, jnp.asarray(10))
    np.testing.assert_allclose(actual, 0.3, rtol=1e-5)

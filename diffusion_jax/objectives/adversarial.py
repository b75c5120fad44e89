"""Games of a generator and a discriminator: what each of them minimises.

A discriminator gives logits: above zero it believes that a picture is real. Losses are
by example, of the shape of the logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Smallest squared gradient under a root: its derivative at 0 would be infinite.
MIN_SQUARED_NORM = 1e-12

Discriminator = Callable[[Array], Array]  # x [B, ...] -> logits [B]


def cross_entropy(real: Array, fake: Array) -> Array:
    """-log D(x) - log(1 - D(G(z))), with D = sigmoid(logit).

    Args:
      real: logits of real pictures.
      fake: logits of generated ones, of the same shape.

    Source: Goodfellow et al. 2014, equation 1, arXiv:1406.2661.
    """
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def saturating(fake: Array) -> Array:
    """log(1 - D(G(z))): flat where the discriminator is sure.

    Source: Goodfellow et al. 2014, equation 1, arXiv:1406.2661.
    """
    return -jax.nn.softplus(fake)


def non_saturating(fake: Array) -> Array:
    """-log D(G(z)).

    Source: Goodfellow et al. 2014, section 3, arXiv:1406.2661.
    """
    return jax.nn.softplus(-fake)


def hinge(real: Array, fake: Array) -> Array:
    """max(0, 1 - real) + max(0, 1 + fake).

    Source: Miyato et al. 2018, equation 16, arXiv:1802.05957.
    """
    return jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)


def critic(real: Array, fake: Array) -> Array:
    """fake - real: minus it, in the mean, bounds the 1-Wasserstein distance from below
    if the critic is 1-Lipschitz.

    Source: Arjovsky et al. 2017, equation 2, arXiv:1701.07875.
    """
    return fake - real


def negative(fake: Array) -> Array:
    """-fake, for the hinge and the Wasserstein game.

    Source: Arjovsky et al. 2017, algorithm 1, arXiv:1701.07875.
    """
    return -fake


def least_squares(real: Array, fake: Array) -> Array:
    """1/2 ((real - 1)^2 + fake^2): targets 1 and 0, on scores that are not logits.

    Source: Mao et al. 2017, equation 2 with a = 0, b = 1, arXiv:1611.04076.
    """
    return 0.5 * (jnp.square(real - 1) + jnp.square(fake))


def least_squares_generator(fake: Array) -> Array:
    """(fake - 1)^2, without the half, as CycleGAN's authors have it.

    Source: Zhu et al. 2017, section 4, arXiv:1703.10593.
    """
    return jnp.square(fake - 1)


def _slope(discriminator: Discriminator, x: Array) -> Array:
    """Squared norm of the logit's gradient at each x, [B].

    The sum's gradient is each example's own only if none sees its batch-mates.
    """
    slope = jax.grad(lambda x: jnp.sum(discriminator(x)))(x)
    return jnp.sum(jnp.square(slope), axis=tuple(range(1, x.ndim)))


def gradient_penalty(
    discriminator: Discriminator, real: Array, fake: Array, weight: Array
) -> Array:
    """(|grad D(x)| - 1)^2 at x = u real + (1 - u) fake, [B].

    Args:
      discriminator: without batch statistics.
      real: [B, ...].
      fake: of the same shape.
      weight: u, [B], uniform in [0, 1].

    Source: Gulrajani et al. 2017, equation 3, arXiv:1704.00028.
    """
    weight = weight.reshape(-1, *[1] * (real.ndim - 1))
    squared = _slope(discriminator, weight * real + (1 - weight) * fake)
    return jnp.square(jnp.sqrt(squared + MIN_SQUARED_NORM) - 1)


def r1_penalty(discriminator: Discriminator, real: Array) -> Array:
    """1/2 |grad D(x)|^2 at real x, [B].

    Args:
      discriminator: without batch statistics.
      real: [B, ...].

    Source: Mescheder et al. 2018, equation 9, arXiv:1801.04406.
    """
    return 0.5 * _slope(discriminator, real)


class GANLoss(NamedTuple):
    """Who minimises what.

    Attributes:
      discriminator: (logits of real, of fake) -> loss, of their shape.
      generator: logits of fake -> loss, of their shape.
      middle: the logit above which a picture is called real; None where a critic calls
        nothing real.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array], Array]
    middle: float | None


GAN_LOSSES = {
    "minimax": GANLoss(cross_entropy, saturating, 0.0),
    "non_saturating": GANLoss(cross_entropy, non_saturating, 0.0),
    "hinge": GANLoss(hinge, negative, 0.0),
    "wasserstein": GANLoss(critic, negative, None),
    "least_squares": GANLoss(least_squares, least_squares_generator, 0.5),
}

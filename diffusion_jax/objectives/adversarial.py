"""GAN losses of the discriminator and of the generator, and gradient penalties.

A discriminator outputs logits: a positive one classifies an example as real. Losses are
elementwise and have the shape of the logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Added to a squared norm before the root, whose derivative is infinite at 0.
MIN_SQUARED_NORM = 1e-12

Discriminator = Callable[[Array], Array]  # x [B, ...] -> logits [B]


def cross_entropy(real: Array, fake: Array) -> Array:
    """-log D(x) - log(1 - D(G(z))), with D = sigmoid(logit).

    Args:
      real: logits of real examples.
      fake: logits of generated examples, of the same shape.

    Source: Goodfellow et al. 2014, equation 1, arXiv:1406.2661.
    """
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def saturating(fake: Array) -> Array:
    """log(1 - D(G(z))): its gradient vanishes where the discriminator is certain.

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


def wasserstein(real: Array, fake: Array) -> Array:
    """fake - real: its negative mean is a lower bound of the 1-Wasserstein distance.

    The bound holds if the critic is 1-Lipschitz.

    Source: Arjovsky et al. 2017, equation 2, arXiv:1701.07875.
    """
    return fake - real


def negative_logit(fake: Array) -> Array:
    """-fake, the generator's loss for both the hinge and the Wasserstein loss.

    Source: Arjovsky et al. 2017, algorithm 1, arXiv:1701.07875.
    """
    return -fake


def least_squares(real: Array, fake: Array) -> Array:
    """1/2 ((real - 1)^2 + fake^2): regresses scores, not logits, to 1 and 0.

    Source: Mao et al. 2017, equation 2 with a = 0, b = 1, arXiv:1611.04076.
    """
    return 0.5 * (jnp.square(real - 1) + jnp.square(fake))


def least_squares_generator(fake: Array) -> Array:
    """(fake - 1)^2, without the factor 1/2, as in CycleGAN.

    Source: Zhu et al. 2017, section 4, arXiv:1703.10593.
    """
    return jnp.square(fake - 1)


def _squared_gradient_norm(discriminator: Discriminator, x: Array) -> Array:
    """|grad D(x)|^2 of each example, [B].

    The gradient of the sum of logits is that of each logit only if no logit depends on
    other examples of the batch.
    """
    gradient = jax.grad(lambda x: jnp.sum(discriminator(x)))(x)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, x.ndim)))


def gradient_penalty(
    discriminator: Discriminator, real: Array, fake: Array, weight: Array
) -> Array:
    """(|grad D(x)| - 1)^2 at x = u real + (1 - u) fake, [B].

    Args:
      discriminator: must not use batch statistics.
      real: [B, ...].
      fake: of the same shape.
      weight: u, [B], uniform in [0, 1].

    Source: Gulrajani et al. 2017, equation 3, arXiv:1704.00028.
    """
    weight = weight.reshape(-1, *[1] * (real.ndim - 1))
    squared = _squared_gradient_norm(discriminator, weight * real + (1 - weight) * fake)
    return jnp.square(jnp.sqrt(squared + MIN_SQUARED_NORM) - 1)


def r1_penalty(discriminator: Discriminator, real: Array) -> Array:
    """1/2 |grad D(x)|^2 at real x, [B].

    Args:
      discriminator: must not use batch statistics.
      real: [B, ...].

    Source: Mescheder et al. 2018, equation 9, arXiv:1801.04406.
    """
    return 0.5 * _squared_gradient_norm(discriminator, real)


class GANLoss(NamedTuple):
    """The losses of both networks.

    Attributes:
      discriminator: (real logits, fake logits) -> loss, of their shape.
      generator: fake logits -> loss, of their shape.
      threshold: logit above which an example is classified as real; None for a critic,
        which does not classify.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array], Array]
    threshold: float | None


GAN_LOSSES = {
    "minimax": GANLoss(cross_entropy, saturating, 0.0),
    "non_saturating": GANLoss(cross_entropy, non_saturating, 0.0),
    "hinge": GANLoss(hinge, negative_logit, 0.0),
    "wasserstein": GANLoss(wasserstein, negative_logit, None),
    "least_squares": GANLoss(least_squares, least_squares_generator, 0.5),
}

"""Cross-entropy of tokens, and means without padding."""

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Computes cross-entropy with label smoothing.

        -(1 - smoothing) log p(label) - smoothing mean_v log p(v)

    Args:
      logits: [..., V].
      labels: integers [...], in 0..V-1.
      smoothing: in [0, 1); 0: -log p(label).

    Returns:
      [...], in nats.

    Source: Szegedy et al. 2016, section 7, arXiv:1512.00567.
    """
    log_p = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    if not smoothing:
        return -of_label
    return -(1 - smoothing) * of_label - smoothing * jnp.mean(log_p, axis=-1)


def masked_mean(values: Array, mask: Array) -> tuple[Array, Array]:
    """Averages values over the places that count.

    Args:
      values: [...].
      mask: bool[...].

    Returns:
      The mean, 0 if nothing counts, and the number of places that do, f32[].
    """
    number = jnp.sum(mask, dtype=jnp.float32)
    return jnp.sum(values * mask) / jnp.maximum(number, 1), number

"""Contrastive losses: each image against the captions of a batch, and the reverse."""

import jax
import jax.numpy as jnp
from jax import Array


def caption_targets(captions: Array, others: Array) -> Array:
    """Returns the distribution that contrastive cross-entropy compares with.

        p_ij = 1 / n_i if caption i equals caption j, otherwise 0

    where n_i is the number of captions equal to caption i: an image of another example
    with the same caption is not a negative.

    Args:
      captions: i32[b, L], each of which is among `others`.
      others: i32[B, L].

    Returns:
      f32[b, B].

    Source: Khosla et al. 2020, equation 2, arXiv:2004.11362, with the captions as
    labels and the example's own caption among the positives.
    """
    equal = jnp.all(captions[:, None] == others[None], axis=-1).astype(jnp.float32)
    return equal / jnp.sum(equal, axis=1, keepdims=True)


def info_nce(queries: Array, keys: Array, targets: Array, scale: Array) -> Array:
    """Computes the cross-entropy of choosing a key for each query.

        -sum_j p_ij log softmax_j(scale <query_i, key_j>)

    Args:
      queries: [b, E], of norm 1.
      keys: [B, E], of norm 1.
      targets: p, [b, B]; each row sums to 1.
      scale: [], the inverse temperature.

    Returns:
      [b], in nats.

    Source: van den Oord et al. 2018, equation 4, arXiv:1807.03748; Radford et al. 2021,
    figure 3, arXiv:2103.00020.
    """
    logits = scale * jnp.einsum("be,ce->bc", queries, keys)
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=1)

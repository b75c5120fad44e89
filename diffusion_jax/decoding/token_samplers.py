"""How the next token is chosen from its logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

# (logits f32[B, V], keys [B]) -> token i32[B].
TokenSampler = Callable[[Array, Array], Array]


def greedy(logits: Array, keys: Array) -> Array:
    """Returns the most likely token; the keys are not used."""
    return jnp.argmax(logits, axis=-1)


def make(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> TokenSampler:
    """Makes a function that draws the next token.

        p(token) ~ exp(logit / temperature)  over the tokens that are kept

    Args:
      temperature: at least 0; 0 is greedy.
      top_k: keep the k most likely tokens; 0: all.
      top_p: then keep the fewest most likely ones whose probabilities add up to at
        least this, in (0, 1]; 1: all.

    Source: Holtzman et al. 2020, section 3.1 (top-p), arXiv:1904.09751.
    """
    if temperature == 0:
        return greedy

    def choose(logits: Array, keys: Array) -> Array:
        logits = logits / temperature
        if top_k:
            logits = keep_top_k(logits, top_k)
        if top_p < 1:
            logits = keep_top_p(logits, top_p)
        return jax.vmap(jax.random.categorical)(keys, logits)

    return choose


def keep_top_k(logits: Array, k: int) -> Array:
    """Sets all but the k largest logits of each row to -inf; ties with the k-th stay.

    Args:
      logits: [B, V].
      k: at least 1; V or more keeps all.
    """
    lowest = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits < lowest, -jnp.inf, logits)


def keep_top_p(logits: Array, p: float) -> Array:
    """Keeps the smallest set of most likely tokens with probability p or more.

    Args:
      logits: [B, V].
      p: in (0, 1]; the most likely token is always kept.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    # A token is kept if those before it do not yet reach p.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    lowest = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < lowest, -jnp.inf, logits)

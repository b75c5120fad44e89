"""A toy decoder whose next token depends on every token it has read, and where."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.decoding.generation import Decoder
from diffusion_jax.special_tokens import END, PAD


def weights_of(seed, length, size, scale=1.0):
    """Random weights [positions, V, V]."""
    draws = np.random.default_rng(seed)
    return draws.normal(scale=scale, size=(length, size, size)).astype(np.float32)


def decoder_of(weights, batch_size, max_length=None):
    """logits = the sum over positions read of weights[position, token].

    Its cache has a row's tokens and, as a second array, the logits."""

    def init():
        read = jnp.full((batch_size, len(weights)), -1, jnp.int32)
        return {"read": read, "logits": jnp.zeros((batch_size, weights.shape[-1]))}

    def step(cache, token, position):
        read = cache["read"].at[:, position].set(token)
        logits = cache["logits"] + jnp.asarray(weights)[position][token]
        return logits, {"read": read, "logits": logits}

    return Decoder(init, step, max_length)


def log_probabilities(weights, tokens):
    """log p over the next token after each of a list, [len(tokens), V], by NumPy."""
    logits = np.cumsum([weights[i, x] for i, x in enumerate(tokens)], axis=0)
    logits = logits.astype(np.float64)
    logits[:, PAD] = -np.inf
    return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))


def continuations(weights, prompt, num_tokens):
    """Every continuation of a prompt, by brute force: {tokens: log p}."""
    found = {}
    tokens = range(1, weights.shape[-1])
    for length in range(1, num_tokens + 1):
        for drawn in itertools.product(tokens, repeat=length):
            complete = drawn[-1] == END or length == num_tokens
            if END in drawn[:-1] or not complete:
                continue
            whole = [*prompt, *drawn]
            log_p = log_probabilities(weights, whole[:-1])[len(prompt) - 1 :]
            found[drawn] = sum(log_p[i, x] for i, x in enumerate(drawn))
    return found


def unpadded(row):
    """A row's tokens as a tuple, which must have padding at its end only."""
    row = np.asarray(row)
    tokens = row[row != PAD]
    assert np.all(row[: len(tokens)] == tokens), row
    return tuple(tokens.tolist())


def keys_of(number, seed=0):
    """A key for each row."""
    return jax.random.split(jax.random.key(seed), number)

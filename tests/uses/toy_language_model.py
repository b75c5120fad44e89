"""A toy language model: a whole family, its data and its task, in one file."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax import prng
from diffusion_jax.data.base import ArraySource, Field
from diffusion_jax.methods import base
from diffusion_jax.methods import config as common
from diffusion_jax.training.state import Loss, Variables

VOCABULARY, LENGTH, PROMPT, PAD = 7, 6, 2, 0
TOKENS = Field((LENGTH,), np.int32, "tokens", size=VOCABULARY)
NETWORK = nn.Sequential([nn.Embed(VOCABULARY, 8), nn.Dense(VOCABULARY)])


class LanguageModel(base.SingleNetwork):
    def loss(self, phase, variables, aux, batch, key, step):
        logits, target = self.apply(variables, batch["tokens"]), batch["tokens"][:, 1:]
        softmax_loss = optax.softmax_cross_entropy_with_integer_labels
        nats, mask = softmax_loss(logits[:, :-1], target), target != PAD
        weight = jnp.maximum(jnp.sum(mask), 1)
        return Loss(jnp.sum(mask * nats) / weight, weight=weight)


def make_sample(method, options):
    def run(variables: Variables, batch, key):
        keys, tokens = prng.example_keys(key, batch["index"]), batch["tokens"]
        for i in range(PROMPT, LENGTH):
            logits = method.apply(variables, tokens)[:, i - 1] / 0.1
            drawn = jax.vmap(jax.random.categorical)(prng.fold_in(keys, i), logits)
            tokens = tokens.at[:, i].set(drawn.astype(tokens.dtype))
        return {"tokens": tokens}

    return base.Task(run, ("tokens",), {"tokens": TOKENS})


def open_counting(rest, spec):  # 1 2 3 4 5 6 1 2 ...: a line is its first token
    first = np.random.default_rng(len(spec.split)).integers(0, VOCABULARY - 1, (64, 1))
    tokens = (first + np.arange(LENGTH)) % (VOCABULARY - 1) + 1
    return ArraySource({"tokens": tokens.astype(np.int32)}, {"tokens": TOKENS})


def defaults():
    config = common.defaults("toy_lm")
    config.data.source, config.model = "counting", {}
    return config


def make(config, fields):
    return LanguageModel(base.single_phase(config), NETWORK, "tokens", TOKENS)


TASKS = {"sample": (base.NoOptions, make_sample)}
FAMILY = base.Family(make, defaults, TASKS)

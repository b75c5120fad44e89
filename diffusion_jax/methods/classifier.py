"""A classifier of real images; its features are used to evaluate other models."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax.data.base import Field
from diffusion_jax.methods import base
from diffusion_jax.methods import config as common
from diffusion_jax.models import CLASSIFIERS
from diffusion_jax.training.state import Loss, Variables


class Classifier(base.SingleNetwork):
    """A network that outputs logits and has a method `features`."""

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: base.PyTree,
        batch: base.Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """-log p(label | data)."""
        logits, label = self.apply(variables, batch[self.data]), batch["label"]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == label)
        return Loss(jnp.mean(nats), {"accuracy": accuracy})


def make_classify(method: Classifier, options: base.NoOptions) -> base.Task:
    """Returns the task with outputs "features" [B, F] and "probabilities" [B, K]."""

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        x = batch[method.data]
        features = method.apply(variables, x, method="features")
        probabilities = jax.nn.softmax(method.apply(variables, x))
        return {"features": features, "probabilities": probabilities}

    network = method.network
    sizes = {"features": network.num_features, "probabilities": network.num_classes}
    outputs = {k: Field((n,), np.float32, "vector") for k, n in sizes.items()}
    return base.Task(run, (method.data,), outputs)


def defaults() -> ConfigDict:
    """Returns the settings of a small convolutional classifier with ten classes."""
    config = common.defaults("classifier")
    config.model = config_dict.create(
        name="conv",
        channels=(32, 64),  # of the convolutions; each halves the size
        num_features=64,  # width of the hidden layer
        num_classes=10,  # at least 2
    )
    config.data.batch_size = 64
    config.eval.metric = "accuracy"
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    config.model.update(channels=(8,), num_features=8)


def make(config: ConfigDict, fields: base.Fields) -> Classifier:
    """Builds a classifier from the groups model and optim."""
    network = base.make_network(CLASSIFIERS, config)
    return Classifier(base.single_phase(config), network, *base.data_field(fields))


TASKS = {"classify": (base.NoOptions, make_classify)}
FAMILY = base.Family(make, defaults, TASKS)

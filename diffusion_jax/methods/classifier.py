"""A classifier of real images; its features are used to evaluate other models."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import FrozenDict
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax.data.base import Field
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import base
from diffusion_jax.methods import config as common
from diffusion_jax.models import CLASSIFIERS
from diffusion_jax.training.state import Loss, Variables


@dataclasses.dataclass(frozen=True)
class Classifier(base.SingleNetwork):
    """A network that outputs logits and has a method `features`.

    Attributes:
      classes: number of classes of each label that is predicted; `label` comes first.
        The network outputs the logits of all labels in this order.
    """

    classes: FrozenDict[str, int]

    def logits(self, variables: Variables, x: Array) -> dict[str, Array]:
        """Returns the logits of each label, [B, K], for data x [B, ...]."""
        ends = [*itertools.accumulate(self.classes.values())][:-1]
        parts = jnp.split(self.apply(variables, x), ends, axis=1)
        return dict(zip(self.classes, parts, strict=True))

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: base.PyTree,
        batch: base.Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """-log p(labels | data), where labels are independent given the data."""
        nats, metrics = jnp.zeros(()), {}
        for name, logits in self.logits(variables, batch[self.data]).items():
            of_label = optax.softmax_cross_entropy_with_integer_labels
            nats += jnp.mean(of_label(logits, batch[name]))
            right = jnp.argmax(logits, axis=1) == batch[name]
            metrics[output_name("accuracy", name)] = jnp.mean(right)
        return Loss(nats, metrics)


def output_name(output: str, label: str) -> str:
    """Returns the name of an output of a label: OUTPUT of `label`, or OUTPUT_LABEL."""
    return output if label == "label" else f"{output}_{label}"


def make_classify(method: Classifier, options: base.NoOptions) -> base.Task:
    """Returns the task with outputs "features" [B, F] and "probabilities" [B, K].

    The probabilities of another label than `label` are called "probabilities_NAME".
    """

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        x = batch[method.data]
        logits = method.logits(variables, x)
        return {
            "features": method.apply(variables, x, method="features"),
            **{
                output_name("probabilities", k): jax.nn.softmax(y)
                for k, y in logits.items()
            },
        }

    sizes = {
        output_name("probabilities", k): size for k, size in method.classes.items()
    }
    sizes = {"features": method.network.num_features, **sizes}
    outputs = {k: Field((n,), np.float32, "vector") for k, n in sizes.items()}
    return base.Task(run, (method.data,), outputs)


def predictions(
    outputs: Mapping[str, np.ndarray], labels: Iterable[str]
) -> dict[str, np.ndarray]:
    """Returns the most likely class of each label, i[N], by name.

    Args:
      outputs: of the task classify, [N, ...] by name.
      labels: names of labels that the classifier predicts.
    """
    return {x: outputs[output_name("probabilities", x)].argmax(axis=1) for x in labels}


def defaults() -> ConfigDict:
    """Returns the settings of a small convolutional classifier with ten classes."""
    config = common.defaults("classifier")
    config.model = config_dict.create(
        name="conv",
        channels=(32, 64),  # of the convolutions; each halves the size
        num_features=64,  # width of the hidden layer
        num_classes=10,  # of `label`; at least 2
        labels=("label",),  # fields to predict, such as ("label", "size")
    )
    config.data.batch_size = 64
    config.eval.metric = "accuracy"
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    config.model.update(channels=(8,), num_features=8, labels=("label",))


def make(config: ConfigDict, fields: base.Fields) -> Classifier:
    """Builds a classifier from the groups model and optim.

    Raises:
      ValueError: model.labels does not begin with "label", or the data lack one of them
        or the number of its classes.
    """
    model = dict(config.model)
    labels = tuple(model.pop("labels"))  # JSON has lists
    if labels[:1] != ("label",):
        raise ValueError(
            f"model.labels = {labels} must begin with 'label', whose error is the "
            "score: such as ('label', 'size')."
        )
    known = {name: x.size for name, x in fields.items() if x.kind == "label" and x.size}
    known["label"] = model.pop("num_classes")
    classes = {x: lookup(known, x, "field in model.labels") for x in labels}
    network = base.make_network(
        CLASSIFIERS, ConfigDict({"model": model}), num_classes=sum(classes.values())
    )
    phases = base.single_phase(config)
    return Classifier(phases, network, *base.data_field(fields), FrozenDict(classes))


TASKS = {"classify": (base.NoOptions, make_classify)}
FAMILY = base.Family(make, defaults, TASKS)

"""A classifier of real pictures, whose features measure what other families draw."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import Array

from diffusion_jax.methods.base import Aux, Batch, Method, PyTree, choose
from diffusion_jax.models import CLASSIFIERS
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Phase

GROUP = "net"


@dataclasses.dataclass(frozen=True)
class Classifier(Method):
    """A network that names the class of a picture.

    Attributes:
      phases: one, which trains the group "net".
      network: picture -> logits, and -> features by its method of that name.
      image_shape: (H, W, C).
    """

    phases: tuple[Phase, ...]
    network: nn.Module
    image_shape: tuple[int, int, int]

    measures: ClassVar[tuple[str, ...]] = ("accuracy",)

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Initialises the network."""
        x = jnp.zeros((1, *self.image_shape))
        return {GROUP: self.network.init(key, x)["params"]}, {}, ()

    def loss(
        self,
        phase: str,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        extra: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> tuple[Array, Aux]:
        """-log p(label | picture)."""
        logits = self.network.apply({"params": params[GROUP]}, batch["image"])
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = jnp.mean(jnp.argmax(logits, axis=1) == batch["label"])
        return jnp.mean(nats), Aux({"accuracy": right}, model_state, None)

    def evaluate(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> dict[str, Array]:
        """Of each picture: "features" f32[B, F] and "probabilities" f32[B, K]."""
        variables = {"params": params[GROUP]}
        features = type(self.network).features
        logits = self.network.apply(variables, batch["image"])
        return {
            "features": self.network.apply(variables, batch["image"], method=features),
            "probabilities": jax.nn.softmax(logits),
        }


def make_classifier(config: ml_collections.ConfigDict) -> Classifier:
    """Builds a classifier from the groups model and optim."""
    data, model = config.data, dict(config.model)
    network_class = choose(CLASSIFIERS, model.pop("name"), "model.name")
    if model["num_classes"] < 2:
        raise ValueError(
            f"model.num_classes = {model['num_classes']}: there is nothing to tell "
            "apart below two classes."
        )
    return Classifier(
        phases=(Phase("net", (GROUP,), optimizers.make_plain(**config.optim)),),
        network=network_class(**model),
        image_shape=(data.image_size, data.image_size, data.num_channels),
    )

"""The contract of a model family: how it trains, and what its model can do."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
from jax import Array

from diffusion_jax.data.base import Field
from diffusion_jax.lookup import lookup
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Loss, Phase, Variables

GROUP = "net"  # the phase and the parameter group of a family with one network
PyTree = Any
Fields = Mapping[str, Field]
# index i32[B], an example's global index, and an array [B, ...] for each field.
Batch = dict[str, Array]
# (variables, batch, key) -> arrays [B, ...], one row per example, which depends on that
# example and its index alone: random numbers come from fold_in(key, index).
BatchFn = Callable[[Variables, Batch, Array], dict[str, Array]]


class Method(abc.ABC):
    """How a family trains: a frozen dataclass of pure functions, and its phases.

    Attributes:
      phases: the updates of one step, in order.
    """

    phases: tuple[Phase, ...]

    @abc.abstractmethod
    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises (variables, aux); aux is what `after_step` updates."""

    @abc.abstractmethod
    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """Returns the loss of a phase on one shard of the batch.

        Random numbers of an example come from fold_in(key, its global index), so that
        the number of devices changes nothing.
        """

    def after_step(
        self, variables: Variables, aux: PyTree, observed: PyTree
    ) -> tuple[dict[str, PyTree], PyTree]:
        """Returns (variables.state, aux) after a phase has updated its groups.

        Args:
          variables: after the update.
          aux: before it.
          observed: `Loss.observed` of the whole batch, [B, ...], in order; the same on
            every device. None if the phase observed nothing.
        """
        return variables.state, aux

    def for_inference(self, variables: Variables) -> Variables:
        """Prepares averaged parameters for use, e.g. recalibrates batch statistics."""
        return variables


@dataclasses.dataclass(frozen=True)
class SingleNetwork(Method):
    """A method with one network and no statistics.

    Attributes:
      phases: one, which trains the group "net".
      network: data [B, ...] -> output.
      data: name of the batch's entry that is modelled.
      field: of it.
    """

    phases: tuple[Phase, ...]
    network: nn.Module
    data: str
    field: Field

    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises the network."""
        x = jnp.zeros((1, *self.field.shape), self.field.dtype)
        return Variables({GROUP: self.network.init(key, x)["params"]}, {}), ()

    def apply(
        self, variables: Variables, *args: Array, method: str = "__call__"
    ) -> Any:
        """Applies the network, or another of its methods by name."""
        return self.network.apply(
            {"params": variables.params[GROUP]}, *args, method=method
        )


def single_phase(config: ml_collections.ConfigDict) -> tuple[Phase, ...]:
    """Returns the phase of a method with one network."""
    return (Phase(GROUP, (GROUP,), optimizers.make(**config.optim)),)


def make_network(
    table: Mapping[str, Callable], config: ml_collections.ConfigDict, **options: Any
) -> Any:
    """Builds what the group model names.

    Args:
      table: of networks, by model.name.
      config: whose other values of the group model are passed on.
      **options: passed on as well.

    Raises:
      ValueError: the name is unknown.
    """
    model = dict(config.model)
    return lookup(table, model.pop("name"), "model.name")(**options, **model)


class Task(NamedTuple):
    """One thing that can be done with a trained model.

    Attributes:
      run: the function; `inference.stream` runs it over any number of examples.
      inputs: the batch's entries that it reads, besides index.
      outputs: what it returns.
    """

    run: BatchFn
    inputs: tuple[str, ...]
    outputs: dict[str, Field]


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a task that has none."""


class Family(NamedTuple):
    """A row of `methods.FAMILIES`.

    Attributes:
      make: (config, fields of the data) -> method; refuses what does not fit.
      tasks: name -> (dataclass of its options, (method, options) -> task).
    """

    make: Callable[[ml_collections.ConfigDict, Fields], Method]
    tasks: dict[str, tuple[type, Callable[[Any, Any], Task]]]


def data_field(fields: Fields) -> tuple[str, Field]:
    """Returns the name and the field of the data that a generative model is of.

    Raises:
      ValueError: there is no such field, or there are several.
    """
    found = [name for name, field in fields.items() if field.kind in DATA_KINDS]
    if len(found) != 1:
        raise ValueError(
            f"The data have the fields {', '.join(fields)}: this model needs exactly "
            f"one of kind {' or '.join(DATA_KINDS)}. Choose another data.source."
        )
    return found[0], fields[found[0]]


def with_axis(field: Field, size: int, axis: str) -> Field:
    """Returns the field of an output with several of `field`, such as a row of images.

    Args:
      field: of one entry.
      size: number of entries.
      axis: the new leading axis: "column" or "frame".
    """
    return field._replace(shape=(size, *field.shape), axes=(axis, *field.axes))


def check_at_least(minimum: float, **values: float) -> None:
    """Refuses values below a minimum, given by their config keys with __ for a dot.

    Raises:
      ValueError: it names the key and the value.
    """
    for key, value in values.items():
        if value < minimum:
            name = key.replace("__", ".")
            raise ValueError(f"{name} must be at least {minimum}, not {value}.")


DATA_KINDS = ("image", "points", "signal")

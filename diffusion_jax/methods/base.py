"""The interface of a model family: how it trains, and the tasks of its model."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from diffusion_jax.data.base import COND_IMAGE, Field
from diffusion_jax.data.captions import encode_prompts
from diffusion_jax.lookup import lookup
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Loss, Phase, Variables

GROUP = "net"  # the phase and the parameter group of a family with one network
OTHER_METRIC = "choose another eval.metric, such as modes for grid25"  # a remedy
DTYPES = dict.fromkeys(("float32", "bfloat16", "float16"))  # of activations
DATA_KINDS = ("image", "points", "signal")
RECONSTRUCTED = "image", "reconstruction"  # columns of the task reconstruct
PyTree = Any
Fields = Mapping[str, Field]
# "index" i32[B], the examples' global indices, and an array [B, ...] for each field.
Batch = dict[str, Array]
# (variables, batch, key) -> arrays [B, ...]. A row depends only on its example and its
# index: random numbers come from fold_in(key, index).
BatchFn = Callable[[Variables, Batch, Array], dict[str, Array]]


class Method(abc.ABC):
    """How a family trains: pure functions on a frozen dataclass.

    Attributes:
      phases: the updates of one step, in order.
    """

    phases: tuple[Phase, ...]

    @property
    def couples_examples(self) -> bool:
        """Whether an example's loss depends on the others, as with batch norm."""
        return False

    @abc.abstractmethod
    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises (variables, aux); `after_step` updates the extra state aux."""

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

        An example's random numbers come from fold_in(key, its global index), so that
        the result does not depend on the number of devices.
        """

    def after_step(
        self, variables: Variables, aux: PyTree, observed: PyTree
    ) -> tuple[dict[str, PyTree], PyTree]:
        """Returns (variables.state, aux) after a phase has updated its groups.

        Args:
          variables: the variables after the update.
          aux: the extra state before the update.
          observed: `Loss.observed` of the whole batch, [B, ...], in order; the same on
            every device. None if the phase's loss leaves it out.
        """
        return variables.state, aux

    def for_inference(self, variables: Variables) -> Variables:
        """Prepares averaged parameters, e.g. by recalibrating batch statistics."""
        return variables


@dataclasses.dataclass(frozen=True)
class SingleNetwork(Method):
    """A method with one network and no statistics.

    Attributes:
      phases: one, which trains the group "net".
      network: data [B, ...] -> output.
      data: name of the field that is modelled, such as "image".
      field: its shape and kind.
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
        """Calls the network, or one of its methods by name."""
        return self.network.apply(
            {"params": variables.params[GROUP]}, *args, method=method
        )


def single_phase(config: ml_collections.ConfigDict) -> tuple[Phase, ...]:
    """Returns the phase of a method with one network."""
    return (Phase(GROUP, (GROUP,), optimizers.make(**config.optim)),)


def make_network(
    table: Mapping[str, Callable], config: ml_collections.ConfigDict, **options: Any
) -> Any:
    """Builds the network that model.name chooses.

    Args:
      table: networks by name.
      config: the run's config; the other values of config.model are passed on.
      **options: further arguments of the network.

    Raises:
      ValueError: the name or the dtype is unknown.
    """
    model = dict(config.model)
    if "dtype" in model:
        lookup(DTYPES, model["dtype"], "model.dtype")
    return lookup(table, model.pop("name"), "model.name")(**options, **model)


class Task(NamedTuple):
    """One use of a trained model, such as sampling or computing a likelihood.

    Attributes:
      run: the function; `inference.make_stream` runs it over any number of examples.
      inputs: names of the fields that it reads, besides index.
      outputs: the fields that it returns, by name.
      prompts: for each input that sample.prompt can give: text -> tokens, int32 [k, P],
        of k prompts.
    """

    run: BatchFn
    inputs: tuple[str, ...]
    outputs: dict[str, Field]
    prompts: Mapping[str, Callable[[str], np.ndarray]] = {}


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a task that has none."""


class Family(NamedTuple):
    """A row of `methods.FAMILIES`.

    Attributes:
      make: (config, fields of the data) -> method; validates the config.
      defaults: () -> the family's config; configs/NAME.py changes values of it.
      tasks: name -> (dataclass of its options, (method, options) -> task).
      data: what config.data describes: "images" (or points), "text" or "pairs" of text.
    """

    make: Callable[[ml_collections.ConfigDict, Fields], Method]
    defaults: Callable[[], ml_collections.ConfigDict]
    tasks: dict[str, tuple[type, Callable[[Any, Any], Task]]]
    data: str = "images"


def data_field(fields: Fields, kinds: Sequence[str] = DATA_KINDS) -> tuple[str, Field]:
    """Returns the name and the field of the data to be modelled.

    The image that paired data are conditioned on is not among them.

    Args:
      fields: of the data.
      kinds: that the model accepts.

    Raises:
      ValueError: there is no such field, or there are several.
    """
    found = [
        name
        for name, field in fields.items()
        if field.kind in kinds and name != COND_IMAGE
    ]
    if len(found) != 1:
        raise ValueError(
            f"The data have the fields {', '.join(fields)}: this model needs exactly "
            f"one of kind {' or '.join(kinds)}. Choose another data.source."
        )
    return found[0], fields[found[0]]


def caption_field(fields: Fields, source: str) -> Field:
    """Returns the field of the captions.

    Args:
      fields: of the data.
      source: data.source, for the message.

    Raises:
      ValueError: there are no captions.
    """
    if "caption" not in fields:
        raise ValueError(
            f"{source} has no captions: choose another data.source, such as "
            f"captions:{source}."
        )
    return fields["caption"]


def with_axis(field: Field, size: int, axis: str) -> Field:
    """Returns the field of several stacked entries, such as a row of images.

    Args:
      field: the field of one entry.
      size: the number of entries.
      axis: the new leading axis: "column" or "frame".
    """
    return field._replace(shape=(size, *field.shape), axes=(axis, *field.axes))


def as_image(x: Array, shape: tuple[int, ...]) -> Array:
    """Resizes images [B, h, w, c] bicubically and converts them to a shape [H, W, C].

    A single channel is repeated; in other cases the channels are averaged.
    """
    if x.shape[3] != shape[2]:
        x = jnp.mean(x, axis=3, keepdims=True).repeat(shape[2], axis=3)
    return jax.image.resize(x, (len(x), *shape), "cubic")


def rows_task(
    columns: Callable[[Variables, Batch, Array], Sequence[Array]],
    inputs: tuple[str, ...],
    field: Field,
    names: Sequence[str],
) -> Task:
    """Makes a task with the output "rows", [B, k, ...].

    Args:
      columns: (variables, batch, key) -> k arrays [B, ...].
      inputs: the batch's entries that it reads, besides index.
      field: of one column.
      names: of the columns, k; they are the titles of the grid.
    """

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        return {"rows": jnp.stack(columns(variables, batch, key), axis=1)}

    rows = with_axis(field, len(names), "column")._replace(names=tuple(names))
    return Task(run, inputs, {"rows": rows})


def with_captions(task: Task, caption: Field | None) -> Task:
    """Returns a task that also outputs its captions, which sample.prompt can replace.

    Args:
      task: "caption" is among its inputs, and perhaps the partner's.
      caption: the field; None: the model has no captions, and the task stays as it is.
    """
    if caption is None:
        return task

    names = [x for x in ("caption", "partner_caption") if x in task.inputs]

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        return task.run(variables, batch, key) | {name: batch[name] for name in names}

    prompts = {"caption": functools.partial(encode_prompts, caption)}
    outputs = task.outputs | dict.fromkeys(names, caption)
    return Task(run, task.inputs, outputs, prompts)


def scalar_fields(*names: str) -> dict[str, Field]:
    """Returns the fields of outputs with one number per example."""
    return {name: Field((), np.float32, "scalar") for name in names}


def check_range(field: Field, what: str, remedy: str, levels: bool = False) -> None:
    """Checks that data lie in [-1, 1], where an option assumes it.

    Args:
      field: the field of the data.
      what: the option, such as "vae.likelihood 'bernoulli'", for the message.
      remedy: what to do instead, such as "set vae.likelihood=gaussian".
      levels: whether the option also assumes 8-bit levels, which only images have.

    Raises:
      ValueError: the data have another range, or none is known.
    """
    if levels and field.kind != "image":
        raise ValueError(
            f"{what} needs 8-bit images, and these data are {field.kind}: {remedy}."
        )
    if field.range is None or tuple(field.range) != (-1, 1):
        found = f"the range {field.range}" if field.range else "no known range"
        raise ValueError(
            f"{what} needs data in [-1, 1], and these {field.kind} data have {found}: "
            f"{remedy}."
        )


def check_at_least(key: str, value: float, minimum: float) -> None:
    """Raises ValueError if the value of a config key is below a minimum."""
    if value < minimum:
        raise ValueError(f"{key} must be at least {minimum}, not {value}.")

"""What a family of models is to the rest of the program."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.training import parallel
from diffusion_jax.training.state import Phase, TrainState

PyTree = Any
# index i32[B] always; image f32[B,H,W,C] in [-1,1] and label i32[B], or those of two
# domains, image_a, label_a, image_b, label_b.
Batch = dict[str, Array]

# (params, model_state, batch, key) -> rows of pictures [B, k, H, W, C]: what the model
# makes of an example, and of it alone. The batch holds its partner's index, image and
# label beside its own, as partner_index and so on; and the index [B, 3, m] and image of
# three lists of examples, the same in each row, as concept_index and concept_image.
View = Callable[[dict[str, PyTree], dict[str, PyTree], Batch, Array], Array]


class Aux(NamedTuple):
    """What a loss returns beside its value.

    Attributes:
      metrics: scalars, each a mean over the shard.
      model_state: the groups' new batch statistics.
      observed: what the method wants to remember of each example, [b, ...].
    """

    metrics: dict[str, Array]
    model_state: dict[str, PyTree]
    observed: PyTree


class Method(Protocol):
    """A family: a frozen dataclass of pure functions, and its phases in order.

    A family that has batch statistics, or something to remember, says so; the others
    inherit that they have not. `sample` and `evaluate` are there where a measure or a
    view of the family asks for them.
    """

    phases: tuple[Phase, ...]
    measures: ClassVar[tuple[str, ...]]  # what eval.metric can be; first in training

    @property
    def views(self) -> dict[str, View]:
        """What can be seen of it beside samples, by name."""
        return {}

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Returns (params, model_state, extra), the first two by group."""

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
        """Returns the mean loss, f32[], over one shard of the batch.

        Random numbers of an example come from fold_in(key, its global index), so that
        the number of devices changes nothing.
        """

    def remember(self, extra: PyTree, observed: PyTree) -> PyTree:
        """Returns the new extra, out of what a step observed on all devices.

        `observed` holds the examples of the whole batch, [B, ...], in their order.
        """
        return extra

    def settle(
        self, params: dict[str, PyTree], model_state: dict[str, PyTree]
    ) -> dict[str, PyTree]:
        """Returns the batch statistics that belong to averaged parameters."""
        return model_state

    def evaluate(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> dict[str, PyTree]:
        """Returns measures of each example by name, f32[B, ...] each, in nats."""

    def sample(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        index: Array,
        key: Array,
    ) -> Batch:
        """Draws a sample for each global index i32[n]; it depends on that alone."""


def make_settle(method: Method) -> Callable[[TrainState], TrainState]:
    """Makes a function that gives a state the statistics of its averaged parameters.

    Samples and measures take a settled state.
    """
    settle = jax.jit(method.settle)

    def run(state: TrainState) -> TrainState:
        return state.replace(model_state=settle(state.ema, state.model_state))

    return run


def make_measure(
    measure: Callable[..., PyTree], seed: int
) -> Callable[[TrainState, Batch], PyTree]:
    """Makes a function that applies a method's measure, or view, to each example.

    Args:
      measure: (params, model_state, batch, key) -> arrays [B, ...].
      seed: of the noise; an example's depends on the seed and on its index alone.

    Returns:
      (state, batch) -> host arrays [B, ...], with the averaged parameters, on this
      process's devices.
    """
    on_devices = parallel.map_on_devices(
        lambda weights, key, batch: measure(*weights, batch, key)
    )

    def run(state: TrainState, batch: Batch) -> PyTree:
        weights = (state.ema, state.model_state)
        return on_devices(weights, jax.random.key(seed), batch)

    return run


def make_evaluate(
    method: Method, seed: int
) -> Callable[[TrainState, Batch], dict[str, np.ndarray]]:
    """Makes a function that measures each example of a batch; see `make_measure`."""
    return make_measure(method.evaluate, seed)


def make_draw(method: Method, batch_size: int) -> Callable[..., dict[str, np.ndarray]]:
    """Makes a function that draws any number of samples, batch by batch.

    Args:
      method: of the state.
      batch_size: samples drawn at once, over this process's devices.

    Returns:
      (state, num_images, seed) -> host arrays with leading axis num_images, drawn with
      the averaged parameters. Sample i depends on the seed and on i alone.
    """

    on_devices = parallel.map_on_devices(
        lambda weights, key, index: method.sample(*weights, index, key)
    )

    def draw(state: TrainState, num_images: int, seed: int) -> dict[str, np.ndarray]:
        key = jax.random.key(seed)
        index = np.arange(-(-num_images // batch_size) * batch_size, dtype=np.int32)
        chunks = index.reshape(-1, batch_size)  # all of one shape: one compilation
        weights = (state.ema, state.model_state)
        drawn = [on_devices(weights, key, chunk) for chunk in chunks]
        return jax.tree.map(lambda *xs: np.concatenate(xs)[:num_images], *drawn)

    return draw


def choose(table: dict[str, Any], name: str, key: str) -> Any:
    """Returns the row of a table, or says which value of the config is unknown.

    Raises:
      ValueError: there is no such row; it says which there are.
    """
    if name not in table:
        raise ValueError(f"Unknown {key} {name!r}. Known ones: {', '.join(table)}.")
    return table[name]


def check_positive(**values: float) -> None:
    """Refuses values below 1, given by their keys with __ for a dot.

    Raises:
      ValueError: it names the key.
    """
    for key, value in values.items():
        if value < 1:
            name = key.replace("__", ".")
            raise ValueError(f"{name} must be at least 1, not {value}.")


def check_view(view: str, known: Iterable[str]) -> None:
    """Refuses an unknown sample.view.

    Raises:
      ValueError: it says which views there are.
    """
    if view not in known:
        raise ValueError(
            f"Unknown sample.view {view!r}. Known ones: {', '.join(known)}."
        )


def check_label(label: int, num_classes: int) -> None:
    """Refuses a sample.label that is none of the classes.

    Raises:
      ValueError: it is neither -1 nor a class.
    """
    if label != -1 and not 0 <= label < num_classes:
        raise ValueError(
            f"sample.label = {label} is none of the {num_classes} classes: -1 "
            "deals them all out in turn."
        )


def deal_labels(index: Array, label: int, num_classes: int) -> Array | None:
    """The class of each sample, i32[n]: label, or at -1 all in turn; None without any.

    Args:
      index: global index of the samples, i32[n].
      label: -1 or one of the classes.
      num_classes: 0 where the network is not told the class.
    """
    if not num_classes:
        return None
    return index % num_classes if label < 0 else jnp.full_like(index, label)

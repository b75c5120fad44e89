"""What a family of models is to the rest of the program."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import Array

from diffusion_jax.training import parallel
from diffusion_jax.training.state import Phase, TrainState

PyTree = Any
Batch = dict[str, Array]  # index i32[B] always; image f32[B,H,W,C] in [-1,1], label ...


# (params, model_state, batch, key) -> rows of pictures [B, k, H, W, C]: what the model
# makes of an example, and of it alone. The batch holds its partner's image and label
# beside its own, as partner_image and partner_label.
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
    """A family: a frozen dataclass of pure functions, and its phases in order."""

    phases: tuple[Phase, ...]
    views: dict[str, View]  # by name

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

"""Laws of batches: images travel as bytes and are normalised on the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax import inference
from diffusion_jax.data import transforms
from diffusion_jax.data.base import LazySource, image_field
from diffusion_jax.methods import Task
from diffusion_jax.training import batches, ema, parallel
from diffusion_jax.training import state as states
from diffusion_jax.training.optimizers import Optimizer
from diffusion_jax.training.state import Loss, Phase, Variables
from diffusion_jax.training.step import make_train_step

BYTES = np.arange(256, dtype=np.uint8)


def test_the_device_maps_bytes_as_numpy_does():
    """All 256 bytes give the same bits on the device, compiled or not, and inside a
    program that could be fused with it."""
    expected = transforms.to_float(BYTES)
    for function in (batches.normalise, jax.jit(batches.normalise)):
        found = function({"image": jnp.asarray(BYTES)})["image"]
        assert found.dtype == np.float32
        assert np.asarray(found).tobytes() == expected.tobytes()

    @jax.jit
    def within(image, scale):
        x = batches.normalise(image)
        return x, x * scale + 1

    found, _ = within(BYTES, jnp.float32(0.3))
    assert np.asarray(found).tobytes() == expected.tobytes()


def test_other_arrays_are_unchanged():
    """Images that are floats already, labels, indices and keys stay as they are."""
    batch = {
        "image": np.linspace(-1, 1, 7, dtype=np.float32),
        "label": np.arange(7, dtype=np.int32),
        "half": jnp.ones(7, jnp.bfloat16),
        "key": jax.random.key(3),
    }
    found = batches.normalise(batch)
    assert all(found[name] is x for name, x in batch.items())


def test_a_task_reads_floats():
    """A task over images that travel as bytes reads what NumPy's transform gives, bit
    for bit, and the stream returns the bytes; floats of a source reach it unchanged."""
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1), np.uint8)
    floats = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    fields = {"image": image_field(images.shape[1:])}
    variables = Variables({"net": jnp.zeros(1)}, {})
    task = Task(lambda v, batch, key: {"seen": batch["image"]}, ("image",), {})
    for given, expected in ((images, transforms.to_float(images)), (floats, floats)):
        source = LazySource(16, lambda i, x=given: {"image": x[i]}, fields)
        stream = inference.make_stream(task, 8, seed=0)(variables, source, 16)
        found = inference.collect(stream, "seen", "image")
        np.testing.assert_array_equal(found["seen"], expected)
        assert found["image"].dtype == given.dtype
        np.testing.assert_array_equal(found["image"], given)


@dataclasses.dataclass(frozen=True)
class MeanImage:
    """Loss |w - x|^2 / 2 per image, whose gradient is w - mean(x)."""

    phases: tuple[Phase, ...]

    def init(self, key):
        return Variables({"net": jnp.zeros((4, 4, 1))}, {}), ()

    def loss(self, phase, variables, aux, batch, key, step):
        assert batch["image"].dtype == jnp.float32
        error = variables.params["net"][None] - batch["image"]
        return Loss(0.5 * jnp.mean(jnp.sum(error**2, axis=(1, 2, 3))))

    def after_step(self, variables, aux, observed):
        return variables.state, aux


def test_a_train_step_reads_floats():
    """A step of SGD with rate 1 from w = 0 ends at the mean of the images in [-1, 1],
    on one device and on all."""
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1), np.uint8)
    optimizer = Optimizer(optax.identity(), optax.sgd(1.0), ema.make_decay(0, False))
    method = MeanImage((Phase("net", ("net",), optimizer),))
    state = states.initial(method, jax.random.key(0))
    one, _ = jax.jit(make_train_step(method, None))(state, {"image": images})
    run = parallel.train_step_on_devices(make_train_step(method, parallel.AXIS))
    batch = parallel.shard({"image": images})
    several, _ = run(parallel.replicate(state), batch, 0)
    expected = transforms.to_float(images).mean(axis=0)
    for found in (one, several):
        np.testing.assert_allclose(found.params["net"], expected, atol=1e-6)

"""Laws of the tasks of a latent space, for a decoder whose output is the latent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.data.base import image_field
from diffusion_jax.diffusion import editing
from diffusion_jax.methods import latent_tasks
from diffusion_jax.methods.base import NoOptions
from diffusion_jax.training.state import Variables

KEY = jax.random.key(2)
NUM_LATENTS, NUM_EXAMPLES = 4, 3
COLUMNS = {"interpolate": 9, "slerp": 9, "traverse": 9, "manifold": 20}


class Open:
    """The latent of an image is its four pixels, moved by its index; the decoder's
    output is the latent, scaled by a parameter."""

    data, field = "image", image_field((2, 2, 1))
    num_latents = NUM_LATENTS
    inputs, encoder_inputs = (), ("image", "index")

    def encode(self, variables, batch, key):
        moved = 100.0 * batch["index"][:, None]
        return batch["image"].reshape(-1, NUM_LATENTS) + moved

    def decode(self, variables, z, batch):
        return variables.params["scale"] * z.reshape(-1, 2, 2, 1)


def make_task(name, model=None):
    return latent_tasks.TASKS[name][1](model or Open(), NoOptions())


def batch_of(first=0):
    """Examples and their partners."""
    rng = np.random.default_rng(5)
    # Eighths: latents are sums that no compiler can round.
    image = rng.integers(-16, 16, (2, NUM_EXAMPLES, 2, 2, 1)).astype(np.float32) / 8
    index = first + np.arange(NUM_EXAMPLES, dtype=np.int32)
    return {
        "index": index,
        "image": image[0],
        "partner_index": index + 7,
        "partner_image": image[1],
    }


@functools.cache
def compiled(name):
    run = make_task(name).run
    return jax.jit(
        lambda batch, scale: run(Variables({"scale": scale}, {}), batch, KEY)
    )


def rows_of(name, batch, scale=1.0):
    """The task's rows, as latents if the scale is 1: [B, k, 4]."""
    outputs = make_task(name).outputs
    rows = compiled(name)(batch, scale)["rows"]
    assert rows.shape == (NUM_EXAMPLES, *outputs["rows"].shape)
    assert rows.shape == (NUM_EXAMPLES, COLUMNS[name], 2, 2, 1)
    return np.asarray(rows).reshape(NUM_EXAMPLES, -1, NUM_LATENTS)


def latents(batch, prefix=""):
    """The latents of the examples, or of their partners."""
    example = {key: batch[f"{prefix}{key}"] for key in ("index", "image")}
    return np.asarray(Open().encode(None, example, KEY))


def test_names_and_inputs():
    """The tasks are those above and `sample`, and each reads only what it needs."""
    assert set(latent_tasks.TASKS) == {"sample", *COLUMNS}
    needed = {name: set(make_task(name).inputs) for name in latent_tasks.TASKS}
    pair = {"image", "partner_image", "partner_index"}
    assert needed == {
        "sample": set(),
        "interpolate": pair,
        "slerp": pair,
        "traverse": {"image"},
        "manifold": set(),
    }


@pytest.mark.parametrize("name", ["interpolate", "slerp"])
def test_ends(name):
    """The ends of a row are what the two latents decode to, bit for bit."""
    batch = batch_of()
    rows = rows_of(name, batch, scale=2.0)
    np.testing.assert_array_equal(rows[:, 0], 2 * latents(batch))
    np.testing.assert_array_equal(rows[:, -1], 2 * latents(batch, "partner_"))


def test_interpolate_is_straight():
    """Equal steps from one latent to the other; the middle is their mean."""
    batch = batch_of()
    rows, a, b = (
        rows_of("interpolate", batch),
        latents(batch),
        latents(batch, "partner_"),
    )
    np.testing.assert_allclose(rows[:, 4], (a + b) / 2, rtol=1e-5)
    steps = np.diff(rows, axis=1)
    np.testing.assert_allclose(steps, np.repeat((b - a)[:, None] / 8, 8, 1), rtol=1e-3)


def test_slerp_keeps_lengths():
    """Between latents of one length all are of that length, by equal angles."""
    z = jnp.array([[2.0, 0, 0, 0]] * 2)
    other = jnp.array([[0, 2.0, 0, 0], [0, 0, -2.0, 0]])
    weights = np.linspace(0, 1, 9, dtype=np.float32)
    rows = np.stack([editing.slerp(z, other, w) for w in weights], axis=1)
    angles = np.linspace(0, np.pi / 2, 9)
    np.testing.assert_allclose(
        np.linalg.norm(rows, axis=2), np.full((2, 9), 2.0), rtol=1e-5
    )
    np.testing.assert_allclose(rows[0, :, 1], 2 * np.sin(angles), atol=1e-5)
    np.testing.assert_allclose(rows[1, :, 2], -2 * np.sin(angles), atol=1e-5)


@pytest.mark.parametrize("first", [0, 2, 3])
def test_traverse_changes_one_latent(first):
    """Example i moves latent i modulo their number from -3 to 3, and no other."""
    batch = batch_of(first)
    rows, z = rows_of("traverse", batch), latents(batch)
    for row, here, index in zip(rows, z, batch["index"]):
        moved = index % NUM_LATENTS
        np.testing.assert_allclose(row[:, moved], np.linspace(-3, 3, 9), atol=1e-6)
        others = np.arange(NUM_LATENTS) != moved
        np.testing.assert_array_equal(row[:, others], np.tile(here[others], (9, 1)))


def normal_cdf(x):
    """By the trapezoid rule from -9."""
    t = np.linspace(-9, x, 20_001)
    return np.trapezoid(np.exp(-(t**2) / 2), t) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize("first", [0, 17])
def test_manifold_is_a_grid_of_quantiles(first):
    """Row i and column j show the quantiles (i + 1/2) / 20 and (j + 1/2) / 20 of the
    normal in the first two latents; the others are 0."""
    batch = batch_of(first)
    rows = rows_of("manifold", batch)
    for row, index in zip(rows, batch["index"]):
        assert normal_cdf(row[0, 0]) == pytest.approx((index + 0.5) / 20, abs=1e-5)
        np.testing.assert_array_equal(row[:, 0], row[0, 0])
        for column, (_, second, *others) in enumerate(row):
            assert normal_cdf(second) == pytest.approx((column + 0.5) / 20, abs=1e-5)
            assert others == [0, 0]
    corners = rows_of("manifold", batch_of())[0, [0, -1], 1]
    np.testing.assert_allclose(corners, [-1.959964, 1.959964], atol=1e-5)


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_are_their_examples_own(name):
    """A row does not depend on the other examples."""
    batch, order = batch_of(), np.array([2, 0, 0])
    again = rows_of(name, jax.tree.map(lambda x: x[order], batch))
    np.testing.assert_allclose(again, rows_of(name, batch)[order], rtol=1e-6)


def test_manifold_of_one_latent_is_refused():
    """The manifold needs two latents; the other tasks need one."""

    class Narrow(Open):
        num_latents = 1

    with pytest.raises(ValueError, match="two latents.*num_latents is 1.*traverse"):
        make_task("manifold", Narrow())
    make_task("traverse", Narrow())

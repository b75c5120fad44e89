"""Laws of what is seen of a latent space, on a decoder that shows the latent itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.methods import latent_tasks

KEY = jax.random.key(2)
NUM_LATENTS, NUM_EXAMPLES, NUM_LISTED = 4, 3, 2
COLUMNS = {
    "interpolation": 9,
    "slerp": 9,
    "traversal": 9,
    "manifold": 20,
    "arithmetic": 5,
}


class Open:
    """The latent of an image is its four pixels, moved by its index; a decoder shows
    the pixels, scaled by a parameter."""

    num_latents = NUM_LATENTS

    def encode(self, params, model_state, batch, key):
        moved = 100.0 * batch["index"][:, None]
        return batch["image"].reshape(-1, NUM_LATENTS) + moved

    def decode(self, params, model_state, z, batch):
        return params["scale"] * z.reshape(-1, 2, 2, 1)


def batch_of(first=0):
    """Examples, their partners, and three lists of two."""
    rng = np.random.default_rng(5)
    # Eighths: latents are sums that no compiler can round.
    image = rng.integers(-16, 16, (2, NUM_EXAMPLES, 2, 2, 1)).astype(np.float32) / 8
    lists = rng.integers(-16, 16, (3, NUM_LISTED, 2, 2, 1)).astype(np.float32) / 8
    index = first + np.arange(NUM_EXAMPLES, dtype=np.int32)
    listed = np.arange(3 * NUM_LISTED, dtype=np.int32).reshape(3, NUM_LISTED)
    rows = (NUM_EXAMPLES, 1, 1)
    return {
        "index": index,
        "image": image[0],
        "label": index,
        "partner_index": index + 7,
        "partner_image": image[1],
        "partner_label": index,
        "concept_index": np.tile(listed, rows),
        "concept_image": np.tile(lists, (*rows, 1, 1, 1)),
    }


def rows_of(name, batch, scale=1.0):
    """The view's rows, as latents if the scale is 1: [B, k, 4]."""
    view = latent_tasks.views(Open())[name]
    rows = jax.jit(lambda batch: view({"scale": scale}, {}, batch, KEY))(batch)
    assert rows.shape == (NUM_EXAMPLES, COLUMNS[name], 2, 2, 1)
    return np.asarray(rows).reshape(NUM_EXAMPLES, -1, NUM_LATENTS)


def latents(batch, name=""):
    """The latents of the examples, or of their partners."""
    part = {key: batch[f"{name}{key}"] for key in ("index", "image")}
    return np.asarray(Open().encode({}, {}, part, KEY))


def test_names():
    """Every view has its name, and samples stand for none of them."""
    assert set(latent_tasks.views(Open())) == set(COLUMNS)
    assert set(latent_tasks.NAMES) == {"samples", *COLUMNS}


@pytest.mark.parametrize("name", ["interpolation", "slerp"])
def test_ends(name):
    """The ends of a row are what the two latents decode to, bit for bit."""
    batch = batch_of()
    rows = rows_of(name, batch, scale=2.0)
    np.testing.assert_array_equal(rows[:, 0], 2 * latents(batch))
    np.testing.assert_array_equal(rows[:, -1], 2 * latents(batch, "partner_"))


def test_interpolation_is_straight():
    """Equal steps from one latent to the other; the middle is their mean."""
    batch = batch_of()
    rows, a, b = (
        rows_of("interpolation", batch),
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
    rows = latent_tasks.slerp(lambda z: z, z, other, jnp.arange(2))
    angles = np.linspace(0, np.pi / 2, 9)
    np.testing.assert_allclose(
        np.linalg.norm(rows, axis=2), np.full((2, 9), 2.0), rtol=1e-5
    )
    np.testing.assert_allclose(rows[0, :, 1], 2 * np.sin(angles), atol=1e-5)
    np.testing.assert_allclose(rows[1, :, 2], -2 * np.sin(angles), atol=1e-5)


@pytest.mark.parametrize("first", [0, 2, 3])
def test_traversal_changes_one_latent(first):
    """Example i moves latent i modulo their number from -3 to 3, and no other."""
    batch = batch_of(first)
    rows, z = rows_of("traversal", batch), latents(batch)
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


def test_arithmetic():
    """Three means of lists, a - b + c, and a neighbour in the cube of side 1/2 around
    it; every example has its own neighbour."""
    batch = batch_of()
    index, images = batch["concept_index"][0], batch["concept_image"][0]
    means = (images.reshape(3, NUM_LISTED, 4) + 100.0 * index[..., None]).mean(1)
    rows = rows_of("arithmetic", batch)
    for row in rows:
        np.testing.assert_allclose(row[:3], means, rtol=1e-5)
        np.testing.assert_allclose(row[3], means[0] - means[1] + means[2], rtol=1e-4)
    steps = rows[:, 4] - rows[:, 3]
    assert np.all(np.abs(steps) <= 0.2501) and np.all(np.abs(steps).max(1) > 0.01)
    assert len(np.unique(steps.round(3), axis=0)) == NUM_EXAMPLES


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_are_their_examples_own(name):
    """A row does not depend on the examples beside it."""
    batch, order = batch_of(), np.array([2, 0, 0])
    again = rows_of(name, jax.tree.map(lambda x: x[order], batch))
    np.testing.assert_allclose(again, rows_of(name, batch)[order], rtol=1e-6)


def test_manifold_of_one_latent_is_refused():
    """The manifold shows two latents; the other views need one."""
    with pytest.raises(ValueError, match="two latents, and there is 1.*traversal"):
        latent_tasks.check("manifold", 1)
    latent_tasks.check("traversal", 1)
    latent_tasks.check("manifold", 2)

"""Laws of the networks with discrete latents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models import DISCRETE_AUTOENCODERS
from diffusion_jax.models.discrete import nearest

KINDS = pytest.mark.parametrize("kind", DISCRETE_AUTOENCODERS)


def network_of(kind, shape=(8, 8, 1), num_downsamplings=1, num_parameters=1):
    options = {"num_codes": 6, "num_features": 4, "width": 8, "num_blocks": 1}
    return DISCRETE_AUTOENCODERS[kind](
        data_shape=shape,
        num_parameters=num_parameters,
        num_downsamplings=num_downsamplings,
        **options,
    )


def images(n, shape=(8, 8, 1)):
    return np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32)


@functools.cache
def variables_of(kind):
    return jax.jit(network_of(kind).init)(jax.random.key(3), images(1))


def call(kind, *args, method):
    return network_of(kind).apply(variables_of(kind), *args, method=method)


@KINDS
@pytest.mark.parametrize(
    "shape, n, grid",
    [
        ((8, 8, 1), 0, (8, 8)),
        ((8, 8, 1), 1, (4, 4)),
        ((28, 20, 3), 2, (7, 5)),
        ((32, 32, 3), 3, (4, 4)),
        ((256, 256, 3), 3, (32, 32)),
    ],
)
def test_shapes(kind, shape, n, grid):
    """Codes form the grid of the image divided by 2^n; outputs have the size of the
    image and as many numbers for each value as the likelihood has parameters."""
    network = network_of(kind, shape, n, num_parameters=2)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)

    def both(variables, x):
        codes = network.apply(variables, x, method="codes")
        return codes, network.apply(variables, codes, method="decode")

    codes, output = jax.eval_shape(both, variables, x)
    assert network.grid == grid
    assert codes.shape == (2, *grid) and codes.dtype == jnp.int32
    assert output.shape == (2, *shape[:2], 2 * shape[2])
    assert output.dtype == jnp.float32


@KINDS
def test_size_that_cannot_be_halved(kind):
    """The error names the factor and the size."""
    network = network_of(kind, (8, 12, 1), 3)
    x = jax.ShapeDtypeStruct((1, 8, 12, 1), jnp.float32)
    words = "num_downsamplings = 3.*factor of 8.*multiples of 8.*8x12"
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(network.init, jax.random.key(0), x)


def test_codes_are_the_most_likely():
    """The codes of a dVAE are those with the largest logits."""
    x = images(3)
    logits = np.asarray(call("gumbel", x, method="logits"))
    assert logits.shape == (3, 4, 4, 6)
    codes = call("gumbel", x, method="codes")
    np.testing.assert_array_equal(codes, logits.argmax(axis=-1))


def test_one_hot_weights_are_codes():
    """Decoding one-hot weights is decoding codes, and a mixture's embedding is the
    mixture of the embeddings, which the decoder's layers then mix up."""
    codes = np.random.default_rng(0).integers(0, 6, (2, 4, 4)).astype(np.int32)
    one_hot = np.eye(6, dtype=np.float32)[codes]
    relaxed = call("gumbel", one_hot, method="decode_relaxed")
    decoded = call("gumbel", codes, method="decode")
    np.testing.assert_allclose(relaxed, decoded, rtol=1e-5, atol=1e-6)
    embedding = variables_of("gumbel")["params"]["embedding"]
    mean = jnp.broadcast_to(embedding.mean(axis=0), (2, 4, 4, 4))
    uniform = jnp.full((2, 4, 4, 6), 1 / 6)
    np.testing.assert_allclose(
        call("gumbel", uniform, method="decode_relaxed"),
        call("gumbel", mean, method="decode_vectors"),
        rtol=1e-4,
        atol=1e-5,
    )


def test_nearest_by_brute_force():
    """The entry with the least squared distance, computed in float64; an entry is its
    own nearest one, and distance counts, not direction."""
    draws = np.random.default_rng(1)
    vectors, embedding = draws.normal(size=(3, 4, 5)), draws.normal(size=(7, 5))
    squares = ((vectors[..., None, :] - embedding) ** 2).sum(axis=-1)
    found = nearest(np.float32(vectors), np.float32(embedding))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, squares.argmin(axis=-1))
    own = nearest(np.float32(embedding), np.float32(embedding))
    np.testing.assert_array_equal(own, np.arange(7))
    line = np.float32([[0.9], [1.9], [9.0]])
    np.testing.assert_array_equal(nearest(np.float32([[1.0]]), line), [0])


def test_entries_are_no_parameters():
    """A VQ-VAE's codes are its nearest entries; the codebook is in a collection of its
    own, and codes are decoded by its entries."""
    variables, x = variables_of("vq"), images(3)
    embedding = variables["codebook"]["embedding"]
    assert embedding.shape == (6, 4)
    assert all("embedding" not in name for name in variables["params"])
    codes = call("vq", x, method="codes")
    np.testing.assert_array_equal(
        codes, nearest(call("vq", x, method="vectors"), embedding)
    )
    np.testing.assert_array_equal(
        call("vq", codes, method="decode"),
        call("vq", embedding[codes], method="decode_vectors"),
    )


@KINDS
def test_call_decodes_the_codes(kind):
    """Called on images, the network decodes their codes."""
    x = images(2)
    codes = call(kind, x, method="codes")
    np.testing.assert_allclose(
        call(kind, x, method="__call__"), call(kind, codes, method="decode"), atol=1e-6
    )

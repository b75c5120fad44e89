"""The GANs' networks in bfloat16: near float32, with float32 where it matters."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.dcgan import DCGANDiscriminator, DCGANGenerator
from diffusion_jax.models.translation import (
    PatchDiscriminator,
    ResNetGenerator,
    UNetGenerator,
)

SHAPE = (16, 16, 3)
# A network without its dtype, the shape of its input, and what it takes to train.
NETWORKS = {
    "generator": (functools.partial(DCGANGenerator, SHAPE, 8), (10,), {"train": True}),
    "discriminator": (functools.partial(DCGANDiscriminator, 8), SHAPE, {"train": True}),
    "resnet": (functools.partial(ResNetGenerator, 3, 8, 1, 1), SHAPE, {}),
    "unet": (functools.partial(UNetGenerator, 3, 8, 3), SHAPE, {}),
    "patch": (functools.partial(PatchDiscriminator, 8, 1), SHAPE, {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16(name):
    """Activations are bfloat16; parameters, moments and the output are float32, and the
    output is within a few per cent of the float32 network's."""
    make, shape, options = NETWORKS[name]
    exact, rough = make(), make(dtype="bfloat16")
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    variables = jax.jit(exact.init)(jax.random.key(0), x)
    # Ten times the authors' small initial weights, so that all layers matter.
    variables = jax.tree.map(lambda w: 10 * w if w.ndim > 1 else w, variables)
    mutable = ["intermediates", "batch_stats"]

    def apply(network, capture):
        return network.apply(
            variables, x, mutable=mutable, capture_intermediates=capture, **options
        )

    expected, _ = jax.jit(lambda: apply(exact, False))()
    found, state = jax.jit(lambda: apply(rough, True))()
    assert found.dtype == expected.dtype == np.float32
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 0.06
    inner = flax.traverse_util.flatten_dict(state["intermediates"])
    del inner[("__call__",)]
    assert {x.dtype for (x,) in inner.values()} == {jnp.dtype("bfloat16")}
    parameters = jax.eval_shape(rough.init, jax.random.key(0), x)
    assert jax.tree.structure(parameters) == jax.tree.structure(variables)
    moments = jax.tree.leaves((parameters, state.get("batch_stats", {})))
    assert {x.dtype for x in moments} == {np.dtype("float32")}


def test_outputs_resolve_eight_bits():
    """A tanh in bfloat16 would leave 8-bit images fewer levels near 1 and -1 than they
    have: between 0.5 and 1, 129 values; in float32 there are many more."""
    make, shape, options = NETWORKS["resnet"]
    network = make(dtype="bfloat16")
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    variables = jax.tree.map(lambda w: 10 * w, variables)
    found = np.asarray(jax.jit(network.apply)(variables, x))
    assert np.any(found != np.asarray(found.astype(jnp.bfloat16), np.float32))

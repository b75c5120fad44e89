"""Laws of the transposed convolution that doubles the resolution."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from diffusion_jax.models.conv_transpose import ConvTranspose2x

PADDING = {4: 2, 3: ((1, 2), (1, 2))}


@pytest.mark.parametrize("kernel_size", [3, 4])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4), (3, 2, 1, 1)])
def test_is_the_transposed_convolution(kernel_size, shape, x64):
    """It equals Flax's dilated convolution of the same kernel, with all derivatives."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape)
    params = {
        "kernel": rng.standard_normal((kernel_size, kernel_size, 6, shape[-1])),
        "bias": rng.standard_normal(6),
    }
    dilated = nn.ConvTranspose(
        6,
        (kernel_size, kernel_size),
        strides=(2, 2),
        padding=PADDING[kernel_size],
        transpose_kernel=True,
    )
    weights = rng.standard_normal((shape[0], 2 * shape[1], 2 * shape[2], 6))

    def both(net):
        def value(params, x):
            y = net.apply({"params": params}, x)
            return (weights * y).sum(), y

        run = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
        return jax.jit(run)(params, x)

    ours, theirs = both(ConvTranspose2x(6, kernel_size)), both(dilated)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
        ours,
        theirs,
    )


def test_kernel_layout():
    """Its parameters have the same names and shapes as Flax's."""
    x = np.zeros((1, 3, 3, 5), np.float32)
    net = nn.ConvTranspose(6, (4, 4), strides=(2, 2), padding=2, transpose_kernel=True)
    of_flax = jax.eval_shape(net.init, jax.random.key(0), x)
    assert of_flax == jax.eval_shape(ConvTranspose2x(6).init, jax.random.key(0), x)

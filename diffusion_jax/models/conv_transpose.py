"""A transposed convolution that doubles the resolution."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike


class ConvTranspose2x(nn.Module):
    """A transposed convolution with stride 2, which exactly doubles height and width.

    Each output pixel depends on 2x2 input pixels, with a different 2x2 kernel for even
    and odd rows and columns. All four kernels are applied as one matrix product and the
    results are interleaved, because XLA's gradient of a dilated convolution with
    respect to its kernel is ten times slower on CPUs.

    Attributes:
      features: output channels.
      kernel_size: 4, like PyTorch's ConvTranspose2d(4, stride=2, padding=1), or 3, like
        ConvTranspose2d(3, stride=2, padding=1, output_padding=1).
      use_bias: whether a bias is added.
      kernel_init: initializer of the kernel [k, k, features, C], which has the layout
        of `nn.ConvTranspose(transpose_kernel=True)`.
      dtype: of the computation; None: that of the input and the parameters.

    Source: Shi et al. 2016, section 3.2, arXiv:1609.05158.
    """

    features: int
    kernel_size: int = 4
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, 2 H, 2 W, features]."""
        batch, height, width, channels = x.shape
        k, features = self.kernel_size, self.features
        shape = (k, k, features, channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        missing = (0, 4 - k)
        kernel = jnp.pad(kernel, (missing, missing, (0, 0), (0, 0)))[::-1, ::-1]
        # Tap a + 2u connects an output of parity a to the u-th of its two inputs.
        kernel = kernel.reshape(2, 2, 2, 2, features, channels)  # [u, a, v, b, ...]
        kernel = kernel.transpose(0, 2, 5, 1, 3, 4)  # [u, v, C, a, b, features]

        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        corners = [
            padded[:, u : u + height + 1, v : v + width + 1]
            for u in (0, 1)
            for v in (0, 1)
        ]
        patches = jnp.concatenate(corners, axis=-1)  # [B, H + 1, W + 1, 4 C]
        y = patches @ kernel.reshape(4 * channels, 4 * features)
        y = y.reshape(batch, height + 1, width + 1, 2, 2, features)
        rows = [
            jnp.stack([y[:, a:, b:, a, b][:, :height, :width] for b in (0, 1)], axis=3)
            for a in (0, 1)
        ]
        y = jnp.stack(rows, axis=2)  # [B, H, 2, W, 2, features]
        y = y.reshape(batch, 2 * height, 2 * width, features)
        if self.use_bias:
            y += bias.reshape(1, 1, 1, features)
        return y

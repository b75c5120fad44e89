"""The generator and the discriminator of DCGAN, for any size that halves to 4..7."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from diffusion_jax.models.conv_transpose import ConvTranspose2x
from diffusion_jax.models.dense import LEAK, append_label
from diffusion_jax.models.norms import BatchNorm, identity

WEIGHT_INIT = nn.initializers.normal(0.02)
SMALLEST, LARGEST = 4, 7  # pixels a side of the coarsest map


def base_size(image_size: int) -> int:
    """Returns the side of the coarsest map: halved while even and at least 4 remain.

    Args:
      image_size: pixels a side, e.g. 8, 16, 32, 64, 128 (to 4) or 28, 56 (to 7).

    Returns:
      4, 5, 6 or 7.

    Raises:
      ValueError: halving ends above 7, or the image is too small to be halved once.
    """
    size = image_size
    while size % 2 == 0 and size // 2 >= SMALLEST:
        size //= 2
    if size > LARGEST or image_size <= LARGEST:
        raise ValueError(
            f"data.image_size = {image_size} cannot be halved down to {SMALLEST}.."
            f"{LARGEST}, once at least: use 8, 16, 28, 32, 64, 128 or the like."
        )
    return size


def num_halvings(image_size: int) -> int:
    """Returns how many times the size is halved to the base; see `base_size`."""
    return (image_size // base_size(image_size)).bit_length() - 1


def halving(features: int, use_bias: bool, name: str) -> nn.Conv:
    """Makes a convolution to half the size: kernel 4, stride 2, padding 1."""
    return nn.Conv(
        features,
        (4, 4),
        strides=2,
        padding=1,
        use_bias=use_bias,
        kernel_init=WEIGHT_INIT,
        name=name,
    )


class DCGANGenerator(nn.Module):
    """Turns noise into a picture by transposed convolutions.

    A map of base x base pixels, doubled k times: width 2^(k-1) channels, half as many
    at each doubling, then C. Batch normalisation and ReLU but for the output, a tanh.

    Attributes:
      image_shape: (H, W, C), H = W.
      width: channels before the last layer: 128 in the paper, 64 in PyTorch's example.
      num_classes: 0, or how many classes it can be told.
      average: of batch statistics over devices; see `BatchNorm`.
      momentum: of running batch statistics.

    Source: Radford et al. 2016, section 3 and figure 1, arXiv:1511.06434.
    """

    image_shape: Sequence[int]
    width: int
    num_classes: int = 0
    average: Callable[[Array], Array] = identity
    momentum: float = 0.9

    @nn.compact
    def __call__(
        self, z: Array, label: Array | None = None, train: bool = False
    ) -> Array:
        """Applies the network.

        Args:
          z: [B, Z].
          label: i32[B], where there are classes; its one-hot code is joined to z.
          train: whether the batch's own statistics are used, and move the running ones.

        Returns:
          [B, H, W, C] in [-1, 1].

        Raises:
          ValueError: see `base_size`.
        """
        size, _, channels = self.image_shape
        base = base_size(size)

        def doubling(features: int, name: str) -> ConvTranspose2x:
            return ConvTranspose2x(
                features, use_bias=False, kernel_init=WEIGHT_INIT, name=name
            )

        def norm(h: Array, name: str) -> Array:
            return nn.relu(
                BatchNorm(self.average, self.momentum, name=name)(h, train=train)
            )

        k = num_halvings(size)
        h = append_label(z, label, self.num_classes)
        features = self.width * 2 ** (k - 1)
        h = nn.Dense(
            base * base * features,
            use_bias=False,
            kernel_init=WEIGHT_INIT,
            name="project",
        )(h)
        h = norm(h.reshape(-1, base, base, features), "norm0")
        for i in range(1, k):
            h = doubling(h.shape[-1] // 2, f"up{i}")(h)
            h = norm(h, f"norm{i}")
        return jnp.tanh(doubling(channels, "out")(h))


class DCGANDiscriminator(nn.Module):
    """Says how real a picture looks, by strided convolutions alone.

    width channels at half the size, twice as many at each further halving, down to the
    base, which one last kernel covers. Normalised but for the first; LeakyReLU.

    Attributes:
      image_size: H = W.
      width: channels after the first layer.
      num_classes: 0, or how many classes it can be told.
      norm: "batch" (without biases, as in the paper) or "none" (with biases).
      average: of batch statistics over devices; see `BatchNorm`.
      momentum: of running batch statistics.

    Source: Radford et al. 2016, section 3, arXiv:1511.06434.
    """

    image_size: int
    width: int
    num_classes: int = 0
    norm: str = "batch"
    average: Callable[[Array], Array] = identity
    momentum: float = 0.9

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, train: bool = False
    ) -> Array:
        """Applies the network.

        Args:
          x: [B, H, W, C].
          label: i32[B], where there are classes; one plane of zeros or ones a class.
          train: whether the batch's own statistics are used, and move the running ones.

        Returns:
          Logits [B].

        Raises:
          ValueError: the norm is unknown, or see `base_size`.
        """
        if self.norm not in NORMS:
            raise ValueError(
                f"Unknown norm {self.norm!r}. Known ones: {', '.join(NORMS)}."
            )
        normalised = NORMS[self.norm]
        base = base_size(self.image_size)
        h = append_label(x, label, self.num_classes)
        for i in range(num_halvings(self.image_size)):
            h = halving(self.width * 2**i, not normalised, f"down{i}")(h)
            if normalised and i > 0:
                h = BatchNorm(self.average, self.momentum, name=f"norm{i}")(h, train)
            h = nn.leaky_relu(h, LEAK)
        h = nn.Conv(
            1,
            (base, base),
            padding="VALID",
            use_bias=not normalised,
            kernel_init=WEIGHT_INIT,
            name="out",
        )(h)
        return h[:, 0, 0, 0]


def dcgan(
    image_shape: Sequence[int],
    average: Callable[[Array], Array],
    width: int,
    disc_norm: str,
    num_classes: int,
) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    """Makes the two networks of DCGAN, of the same width; see there."""
    size = image_shape[0]
    return (
        DCGANGenerator(image_shape, width, num_classes, average),
        DCGANDiscriminator(size, width, num_classes, disc_norm, average),
    )


# Whether layers are normalised, and then need no biases.
NORMS = {"batch": True, "none": False}

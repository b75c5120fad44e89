"""Our CycleGAN and pix2pix networks equal the same ones of PyTorch modules."""

import numpy as np
import pytest

REASON = "needs the extra 'parity': pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=REASON)

from torch import nn  # noqa: E402
from torch_layers import (  # noqa: E402
    check_output_and_gradient,
    randomise,
    to_ours,
)

from diffusion_jax.models.translation import (  # noqa: E402
    PatchDiscriminator,
    ResNetGenerator,
    UNetGenerator,
)


class Residual(nn.Module):
    """x + two 3x3 convolutions with reflection padding."""

    def __init__(self, channels: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x):
        return x + self.path(x)


def resnet(base: int, num_blocks: int, channels: int = 3) -> tuple:
    """Their network, our names of its layers, and our network."""

    def normed(layer):
        return [layer, nn.InstanceNorm2d(layer.out_channels), nn.ReLU()]

    layers = [nn.ReflectionPad2d(3), *normed(nn.Conv2d(channels, base, 7))]
    for c in (base, 2 * base):
        layers += normed(nn.Conv2d(c, 2 * c, 3, stride=2, padding=1))
    layers += [Residual(4 * base) for _ in range(num_blocks)]
    for c in (4 * base, 2 * base):
        layers += normed(nn.ConvTranspose2d(c, c // 2, 3, 2, 1, output_padding=1))
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(base, channels, 7), nn.Tanh()]
    names = ["conv_in", "down0", "down1"]
    names += [f"block{i}/conv{j}" for i in range(num_blocks) for j in (1, 2)]
    names += ["up1", "up0", "conv_out"]
    ours = ResNetGenerator(channels, base, num_blocks)
    return nn.Sequential(*layers), names, ours


class Joined(nn.Module):
    """A level of the U-Net: its input concatenated with the levels below."""

    def __init__(self, outer: int, inner: int, below: nn.Module | None):
        super().__init__()
        layers = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1)]
        if below is not None:
            layers += [nn.InstanceNorm2d(inner), below]
        width = inner if below is None else 2 * inner
        layers += [nn.ReLU(), nn.ConvTranspose2d(width, outer, 4, 2, 1)]
        self.path = nn.Sequential(*layers, nn.InstanceNorm2d(outer))

    def forward(self, x):
        return torch.cat([x, self.path(x)], dim=1)


def unet(base: int, num_levels: int, channels: int = 3) -> tuple:
    """Their network, our names of its layers, and our network."""
    features = [base * min(2**level, 8) for level in range(num_levels)]
    below = None
    for level in reversed(range(1, num_levels)):
        below = Joined(features[level - 1], features[level], below)
    theirs = nn.Sequential(
        nn.Conv2d(channels, base, 4, 2, 1),
        below,
        nn.ReLU(),
        nn.ConvTranspose2d(2 * base, channels, 4, 2, 1),
        nn.Tanh(),
    )
    names = [f"down{level}" for level in range(num_levels)]
    names += [f"up{level}" for level in reversed(range(num_levels))]
    return theirs, names, UNetGenerator(channels, base, num_levels)


def patch(base: int, num_layers: int, channels: int = 3) -> tuple:
    """Their network, our names of its layers, and our network."""
    layers = [nn.Conv2d(channels, base, 4, 2, 1), nn.LeakyReLU(0.2)]
    before = base
    for i in range(1, num_layers + 1):
        after, stride = base * min(2**i, 8), 2 if i < num_layers else 1
        layers += [nn.Conv2d(before, after, 4, stride, 1)]
        layers += [nn.InstanceNorm2d(after), nn.LeakyReLU(0.2)]
        before = after
    layers += [nn.Conv2d(before, 1, 4, 1, 1)]
    names = [*(f"conv{i}" for i in range(num_layers + 1)), "out"]
    return nn.Sequential(*layers), names, PatchDiscriminator(base, num_layers)


def runner(ours):
    return lambda variables, x: (ours.apply(variables, x), {})


@pytest.mark.parametrize(
    ("make", "arguments", "size"),
    [
        (resnet, (64, 9), (8, 12)),
        (unet, (2, 5), (32, 64)),
        (unet, (64, 4), (16, 16)),
        (patch, (1, 4), (48, 64)),
        (patch, (64, 3), (24, 24)),
    ],
    ids=["resnet9", "unet5", "unet_wide", "patch4", "patch70"],
)
def test_output_and_gradient(make, arguments, size, x64):
    """Outputs and input gradients are equal in float64, where rounding does not matter.

    Slim networks up to the limit of channels, the authors' widths and depths on the
    smallest images, and non-square images. float32 cannot tell as much: a ReLU's
    derivative jumps where rounding changes the sign of its input.
    """
    theirs, names, ours = make(*arguments)
    theirs = randomise(theirs, np.float64)
    variables = to_ours(theirs, names)
    x = np.random.default_rng(1).uniform(-1, 1, (1, *size, 3))
    check_output_and_gradient(runner(ours), variables, theirs, x, 1e-10, 1e-10)


@pytest.mark.parametrize(("make", "size"), [(unet, 16), (patch, 24)])
def test_float32(make, size):
    """float32 outputs agree to float32 precision, and stay float32."""
    theirs, names, ours = make(16, 3)
    theirs = randomise(theirs, np.float32)
    variables = to_ours(theirs, names)
    x = np.random.default_rng(1).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    check_output_and_gradient(runner(ours), variables, theirs, x, 1e-5, 1e-2)

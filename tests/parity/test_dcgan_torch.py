"""Our DCGAN beside PyTorch's, as its example defines it, with the same weights."""

import jax
import numpy as np
import pytest

REASON = "needs the extra 'parity': pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=REASON)

from torch import nn  # noqa: E402
from torch_layers import (  # noqa: E402
    check_output_and_gradient,
    distance,
    randomise,
    to_ours,
    to_torch,
)

from diffusion_jax.models.dcgan import DCGANDiscriminator, DCGANGenerator

NUM_LATENTS = 100


def their_generator(width: int, k: int) -> nn.Sequential:
    """4x4 pixels and k doublings: ConvTranspose2d(4, 1, 0), then (4, 2, 1) each."""
    features = [width * 2**i for i in reversed(range(k))]
    layers = [nn.ConvTranspose2d(NUM_LATENTS, features[0], 4, 1, 0, bias=False)]
    for before, after in zip(features, [*features[1:], 3]):
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    return nn.Sequential(*layers, nn.Tanh())


def their_discriminator(width: int, k: int) -> nn.Sequential:
    """k times Conv2d(4, 2, 1), normalised but for the first; then Conv2d(4, 1, 0)."""
    features = [width * 2**i for i in range(k)]
    layers = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for before, after in zip(features, features[1:]):
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(features[-1], 1, 4, 1, 0, bias=False))


def make_pair(kind: str, size: int, width: int, dtype: type) -> tuple:
    """Theirs, ours, our variables, and an input."""
    k = {64: 4, 16: 2}[size]
    rng = np.random.default_rng(1)
    if kind == "generator":
        theirs = their_generator(width, k)
        ours = DCGANGenerator((size, size, 3), width)
        names = ["project"]
        for i in range(k):
            names += [f"norm{i}", f"up{i + 1}" if i < k - 1 else "out"]
        x = rng.standard_normal((3, NUM_LATENTS))
    else:
        theirs = their_discriminator(width, k)
        ours = DCGANDiscriminator(size, width)
        names = ["down0"]
        for i in range(1, k):
            names += [f"down{i}", f"norm{i}"]
        names += ["out"]
        x = rng.uniform(-1, 1, (3, size, size, 3))
    theirs = randomise(theirs, dtype)
    variables = to_ours(theirs, names)
    if kind == "generator":  # their first layer sees one pixel: a matrix product
        project = variables["params"]["project"]
        kernel = project["kernel"].transpose(3, 0, 1, 2)
        project["kernel"] = kernel.reshape(NUM_LATENTS, -1)
    return theirs, ours, variables, x.astype(dtype)


KINDS = pytest.mark.parametrize("kind", ["generator", "discriminator"])


@KINDS
@pytest.mark.parametrize("train", [False, True])
def test_in_float64(kind, train, x64):
    """64 pixels, slim: outputs and input gradients where only mathematics can differ.

    With running statistics, and with those of the batch.
    """
    theirs, ours, variables, x = make_pair(kind, 64, 4, np.float64)

    def apply(variables, x):
        output, _ = ours.apply(variables, x, None, train, mutable=["batch_stats"])
        return output

    check_output_and_gradient(apply, variables, theirs.train(train), x, 1e-11, 1e-11)


@KINDS
def test_real_width_in_float32(kind):
    """64 pixels and width 64, as in the example, to what float32 can tell.

    A ReLU's derivative jumps where rounding changes the sign before it: one unit of the
    300,000 moves the gradient by some 1e-3. In float64, above, none does.
    """
    theirs, ours, variables, x = make_pair(kind, 64, 64, np.float32)
    check_output_and_gradient(ours.apply, variables, theirs.eval(), x, 1e-5, 1e-2)


@KINDS
def test_running_statistics(kind, x64):
    """After a training step they are theirs, with momentum 0.9 here for 0.1 there.

    Theirs takes the variance over n - 1 in, ours that over n.
    """
    theirs, ours, variables, x = make_pair(kind, 16, 4, np.float64)
    _, new = ours.apply(variables, x, None, True, mutable=["batch_stats"])
    theirs.train()(to_torch(x))
    counts = {"norm0": 3 * 4 * 4, "norm1": 3 * (8 * 8 if kind == "generator" else 16)}
    norms = [layer for layer in theirs if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == len(new["batch_stats"])
    for (name, ours_now), norm in zip(sorted(new["batch_stats"].items()), norms):
        old, n = variables["batch_stats"][name], counts[name]
        assert distance(ours_now["mean"], norm.running_mean.numpy()) < 1e-11
        of_batch = (norm.running_var.numpy() - 0.9 * old["var"]) / 0.1 * (n - 1) / n
        assert distance((ours_now["var"] - 0.9 * old["var"]) / 0.1, of_batch) < 1e-11


def test_number_of_parameters():
    """The example's networks have as many parameters as ours."""
    with torch.device("meta"):
        pairs = (
            (their_generator(64, 4), DCGANGenerator((64, 64, 3), 64), (1, NUM_LATENTS)),
            (their_discriminator(64, 4), DCGANDiscriminator(64, 64), (1, 64, 64, 3)),
        )
    for theirs, ours, shape in pairs:
        x = jax.ShapeDtypeStruct(shape, np.float32)
        shapes = jax.eval_shape(ours.init, jax.random.key(0), x)["params"]
        counts = [leaf.numel() for leaf in theirs.parameters()]
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(counts)

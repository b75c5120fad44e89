"""Our DCGAN equals that of PyTorch's example for the same weights."""

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
)

from diffusion_jax.models.dcgan import DCGANDiscriminator, DCGANGenerator  # noqa: E402

NUM_LATENTS = 100


def their_generator(width: int, k: int) -> nn.Sequential:
    """ConvTranspose2d(4, 1, 0) to 4x4 pixels, then k times ConvTranspose2d(4, 2, 1)."""
    features = [width * 2**i for i in reversed(range(k))]
    layers = [nn.ConvTranspose2d(NUM_LATENTS, features[0], 4, 1, 0, bias=False)]
    for before, after in zip(features, [*features[1:], 3]):
        layers += [nn.BatchNorm2d(before), nn.ReLU()]
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    return nn.Sequential(*layers, nn.Tanh())


def their_discriminator(width: int, k: int) -> nn.Sequential:
    """k times Conv2d(4, 2, 1), all but the first with norms; then Conv2d(4, 1, 0)."""
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
        ours = DCGANDiscriminator(width)
        names = ["down0"]
        for i in range(1, k):
            names += [f"down{i}", f"norm{i}"]
        names += ["out"]
        x = rng.uniform(-1, 1, (3, size, size, 3))
    theirs = randomise(theirs, dtype)
    variables = to_ours(theirs, names)
    if kind == "generator":  # their first layer has 1x1 inputs: a matrix product
        project = variables["params"]["project"]
        kernel = project["kernel"].transpose(3, 0, 1, 2)
        project["kernel"] = kernel.reshape(NUM_LATENTS, -1)
    return theirs, ours, variables, x.astype(dtype)


KINDS = pytest.mark.parametrize("kind", ["generator", "discriminator"])


def runner(ours, train: bool):
    def apply(variables, x):
        return ours.apply(variables, x, None, train, mutable=["batch_stats"])

    return apply


@KINDS
def test_inference_in_float64(kind, x64):
    """Outputs and input gradients are equal with running statistics.

    In float64 only the mathematics can differ. The networks are slim, for 16 pixels.
    """
    theirs, ours, variables, x = make_pair(kind, 16, 4, np.float64)
    apply = runner(ours, train=False)
    check_output_and_gradient(apply, variables, theirs.eval(), x, 1e-11, 1e-11)


@KINDS
def test_training_in_float64(kind, x64):
    """With the batch's moments, outputs, input gradients and new running statistics are
    equal; momentum 0.9 here is 0.1 there.

    They average the variance over n - 1, we over n.
    """
    theirs, ours, variables, x = make_pair(kind, 16, 4, np.float64)
    apply = runner(ours, train=True)
    new = check_output_and_gradient(apply, variables, theirs.train(), x, 1e-11, 1e-11)
    counts = {"norm0": 3 * 4 * 4, "norm1": 3 * (8 * 8 if kind == "generator" else 16)}
    norms = [layer for layer in theirs if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == len(new["batch_stats"])
    for (name, ours_now), norm in zip(sorted(new["batch_stats"].items()), norms):
        old, n = variables["batch_stats"][name], counts[name]
        assert distance(ours_now["mean"], norm.running_mean.numpy()) < 1e-11
        of_batch = (norm.running_var.numpy() - 0.9 * old["var"]) / 0.1 * (n - 1) / n
        assert distance((ours_now["var"] - 0.9 * old["var"]) / 0.1, of_batch) < 1e-11


@KINDS
def test_real_width_in_float32(kind):
    """The example's networks, of width 64 for 64 pixels, agree to float32 precision.

    A ReLU's derivative jumps where rounding changes its input's sign: one unit of the
    100,000 changes the gradient by about 1e-3. In float64, above, none does.
    """
    theirs, ours, variables, x = make_pair(kind, 64, 64, np.float32)
    apply = runner(ours, train=False)
    check_output_and_gradient(apply, variables, theirs.eval(), x[:1], 1e-5, 1e-2)


def test_number_of_parameters():
    """The example's networks and ours have the same number of parameters."""
    with torch.device("meta"):
        pairs = (
            (their_generator(64, 4), DCGANGenerator((64, 64, 3), 64), (1, NUM_LATENTS)),
            (their_discriminator(64, 4), DCGANDiscriminator(64), (1, 64, 64, 3)),
        )
    for theirs, ours, shape in pairs:
        x = jax.ShapeDtypeStruct(shape, np.float32)
        shapes = jax.eval_shape(ours.init, jax.random.key(0), x)["params"]
        counts = [leaf.numel() for leaf in theirs.parameters()]
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(counts)

"""The U-Net in PyTorch of the benchmarks is ours, layer by layer."""

import flax.traverse_util
import jax
import numpy as np
import pytest

REASON = "needs the extra 'parity': pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=REASON)

from torch_layers import distance, to_numpy, to_torch  # noqa: E402

from benchmarks import torch_networks  # noqa: E402
from diffusion_jax.models.unet import UNet  # noqa: E402

SETTINGS = {
    "base_channels": 24,
    "channel_multipliers": (1, 2, 2),
    "num_blocks": 1,
    "attention_resolutions": (4,),
    "dropout": 0.1,
}


def their_weights(params: dict) -> dict:
    """Our parameters in the layout of PyTorch, by its names."""
    weights = {}
    for path, leaf in flax.traverse_util.flatten_dict(params, sep=".").items():
        if path.endswith("shortcut.kernel"):
            leaf = leaf[None, None]
        if path.endswith("kernel"):
            axes = (3, 2, 0, 1) if leaf.ndim == 4 else (1, 0)
            leaf = leaf.transpose(axes)
        name = path.replace(".kernel", ".weight").replace(".scale", ".weight")
        weights[name] = torch.from_numpy(np.array(leaf))
    return weights


def test_twin_in_float64(x64):
    """With our weights it has our output and our gradient; no weight is left over."""
    ours = UNet(**SETTINGS, out_channels=3, dtype=np.float64)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 16, 3))
    t = np.array([0, 9], np.int32)  # small angles, which both compute in float32
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x, t)["params"]
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape) / np.sqrt(leaf.size), shapes
    )
    theirs = torch_networks.twin({"size": 16, "channels": 3, **SETTINGS})
    theirs = theirs.double().eval()
    theirs.load_state_dict(their_weights(params))

    weights = rng.standard_normal(x.shape)
    x_torch = to_torch(x).requires_grad_()
    output = theirs(x_torch, torch.from_numpy(t))
    output.backward(to_torch(weights))

    @jax.jit
    def both(params, x):
        run = lambda x: ours.apply({"params": params}, x, t)  # noqa: E731
        output, pullback = jax.vjp(run, x)
        return output, pullback(weights)[0]

    our_output, our_gradient = both(params, x)
    assert distance(our_output, to_numpy(output, x.shape)) < 1e-6
    assert distance(our_gradient, to_numpy(x_torch.grad, x.shape)) < 1e-6

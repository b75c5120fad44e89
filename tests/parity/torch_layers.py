"""Random PyTorch networks, their numbers laid out our way, and both side by side."""

import functools
from collections.abc import Callable, Sequence

import flax.traverse_util
import jax
import numpy as np
import torch


def randomise(net: torch.nn.Module, dtype: type) -> torch.nn.Module:
    """Draws all weights and running statistics, so that no 0 or 1 hides anything.

    Kernels have the variance 1 / (inputs an output sums), for activations near 1.
    """
    rng = np.random.default_rng(0)

    def draw(name: str, leaf: torch.Tensor) -> np.ndarray:
        z = rng.standard_normal(tuple(leaf.shape))
        if leaf.ndim == 4:
            return z / np.sqrt(z.size / max(z.shape[:2]))
        if name.endswith(("running_var", "weight")):
            return np.exp(0.3 * z)
        return 0.3 * z

    state = {
        name: torch.from_numpy(np.asarray(draw(name, leaf), dtype))
        for name, leaf in net.state_dict().items()
        if leaf.is_floating_point()
    }
    net = net.to(torch.float64 if dtype == np.float64 else torch.float32)
    net.load_state_dict(state, strict=False)  # all but the counts of batches
    return net


def to_ours(net: torch.nn.Module, names: Sequence[str]) -> dict:
    """Our variables from their layers.

    Args:
      net: theirs.
      names: ours, a "block/layer" for each of their layers with weights, in the order
        of net.modules().

    Returns:
      {"params": ..., "batch_stats": ...}, the latter where there are any.
    """
    layers = [m for m in net.modules() if getattr(m, "weight", None) is not None]
    flat = {}
    for name, layer in zip(names, layers, strict=True):
        weight = layer.weight.detach().numpy()
        if weight.ndim == 4:
            # OIHW -> HWIO; a transposed one is IOHW there, and HWOI here.
            flat[f"params/{name}/kernel"] = weight.transpose(2, 3, 1, 0)
        else:
            flat[f"params/{name}/scale"] = weight
            flat[f"batch_stats/{name}/mean"] = layer.running_mean.numpy().copy()
            flat[f"batch_stats/{name}/var"] = layer.running_var.numpy().copy()
        if layer.bias is not None:
            flat[f"params/{name}/bias"] = layer.bias.detach().numpy()
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def to_torch(x: np.ndarray) -> torch.Tensor:
    """NHWC -> NCHW, and a vector [B, Z] to [B, Z, 1, 1]."""
    x = x[:, None, None, :] if x.ndim == 2 else x
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def to_numpy(x: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """NCHW -> NHWC, in a shape that drops axes of one."""
    return x.detach().numpy().transpose(0, 2, 3, 1).reshape(shape)


def distance(ours: jax.Array, theirs: np.ndarray) -> float:
    """The RMS of the difference over the RMS of theirs."""
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(theirs))


def check_output_and_gradient(
    apply: Callable[[dict, jax.Array], jax.Array],
    variables: dict,
    theirs: torch.nn.Module,
    x: np.ndarray,
    of_output: float,
    of_gradient: float,
) -> None:
    """Compares the outputs of x, and the gradients in x of a random sum of them.

    Args:
      apply: our network.
      variables: of ours, for its apply.
      theirs: the same network.
      x: [B, H, W, C] or [B, Z].
      of_output: the greatest `distance` of the outputs allowed.
      of_gradient: the same of the gradients.
    """
    x_torch = to_torch(x).requires_grad_()
    their_output = theirs(x_torch)
    weights = np.random.default_rng(2).standard_normal(their_output.shape)
    their_output.backward(torch.from_numpy(weights.astype(x.dtype)))

    @jax.jit
    def both(variables, x):
        output, pullback = jax.vjp(functools.partial(apply, variables), x)
        cotangent = weights.astype(x.dtype).transpose(0, 2, 3, 1).reshape(output.shape)
        return output, pullback(cotangent)[0]

    output, gradient = both(variables, x)
    assert output.dtype == x.dtype
    assert distance(output, to_numpy(their_output, output.shape)) < of_output
    assert distance(gradient, to_numpy(x_torch.grad, x.shape)) < of_gradient

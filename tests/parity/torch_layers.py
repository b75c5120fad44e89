"""Random PyTorch networks, their weights in our layout, and their comparison."""

import functools
from collections.abc import Callable, Sequence

import flax.traverse_util
import jax
import numpy as np
import torch


def randomise(net: torch.nn.Module, dtype: type) -> torch.nn.Module:
    """Draws all weights and running statistics, because 0 and 1 hide differences.

    Kernels have variance 1 / (inputs per output), which keeps activations near 1.
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
    net.load_state_dict(state, strict=False)  # all but the numbers of batches
    return net


def to_ours(net: torch.nn.Module, names: Sequence[str]) -> dict:
    """Returns our variables with the values of their layers.

    Args:
      net: their network.
      names: our "block/layer" for each of their layers with weights, in the order of
        net.modules().

    Returns:
      {"params": ..., "batch_stats": ...}, the latter if there are any.
    """
    layers = [m for m in net.modules() if getattr(m, "weight", None) is not None]
    flat = {}
    for name, layer in zip(names, layers, strict=True):
        weight = layer.weight.detach().numpy()
        if weight.ndim == 4:
            # OIHW -> HWIO, and for transposed convolutions IOHW -> HWOI.
            flat[f"params/{name}/kernel"] = weight.transpose(2, 3, 1, 0)
        else:
            flat[f"params/{name}/scale"] = weight
            flat[f"batch_stats/{name}/mean"] = layer.running_mean.numpy().copy()
            flat[f"batch_stats/{name}/var"] = layer.running_var.numpy().copy()
        if layer.bias is not None:
            flat[f"params/{name}/bias"] = layer.bias.detach().numpy()
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def to_torch(x: np.ndarray) -> torch.Tensor:
    """NHWC -> NCHW, and [B, Z] -> [B, Z, 1, 1]."""
    x = x[:, None, None, :] if x.ndim == 2 else x
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def to_numpy(x: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """NCHW -> NHWC, reshaped to drop axes of size 1."""
    return x.detach().numpy().transpose(0, 2, 3, 1).reshape(shape)


def distance(ours: jax.Array, theirs: np.ndarray) -> float:
    """The RMS of the difference over the RMS of theirs."""
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(theirs))


def check_output_and_gradient(
    apply: Callable[[dict, jax.Array], tuple[jax.Array, dict]],
    variables: dict,
    theirs: torch.nn.Module,
    x: np.ndarray,
    of_output: float,
    of_gradient: float,
) -> dict:
    """Compares the outputs, and the gradients in x of a random weighted sum of them.

    Args:
      apply: our network, (variables, x) -> (output, aux).
      variables: of our network.
      theirs: the same network.
      x: [B, H, W, C] or [B, Z].
      of_output: maximal `distance` of the outputs.
      of_gradient: maximal `distance` of the gradients.

    Returns:
      aux.
    """
    x_torch = to_torch(x).requires_grad_()
    their_output = theirs(x_torch)
    weights = np.random.default_rng(2).standard_normal(their_output.shape)
    their_output.backward(torch.from_numpy(weights.astype(x.dtype)))

    @jax.jit
    def both(variables, x):
        run = functools.partial(apply, variables)
        output, pullback, aux = jax.vjp(run, x, has_aux=True)
        cotangent = weights.astype(x.dtype).transpose(0, 2, 3, 1).reshape(output.shape)
        return output, pullback(cotangent)[0], aux

    output, gradient, aux = both(variables, x)
    assert output.dtype == x.dtype
    assert distance(output, to_numpy(their_output, output.shape)) < of_output
    assert distance(gradient, to_numpy(x_torch.grad, x.shape)) < of_gradient
    return aux

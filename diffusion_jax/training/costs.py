"""What a train step costs: arithmetic and memory, and the peak rate of devices."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import stages
from jax.extend import core


def memory(compiled: stages.Compiled) -> int | None:
    """Returns the bytes that a device needs while a program runs; None if unknown.

    arguments + outputs - donated arguments + temporaries + program
    """
    sizes = compiled.memory_analysis()
    if sizes is None:
        return None
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.generated_code_size_in_bytes
    )


def count_flops(function: Callable, *args: Any) -> int:
    """Counts the operations of a function's matrix products and convolutions.

    They are counted as the function is written, before XLA, which has no count on GPUs:
    a multiplication and an addition for each product of two numbers, without those with
    the zeros of padding. A scan counts all its turns, a while loop one, and a choice
    its largest branch, so that fused attention counts as plain attention does. Other
    primitives, such as ragged_dot, count nothing, and a Pallas kernel one program of
    its grid. A function of `jax.pmap` is counted on one device.

    Args:
      function: of arrays.
      *args: arrays, or their shapes and dtypes.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(map(_count_equation, jaxpr.eqns))


def _count_equation(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _product_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    inner = [_count(jaxpr) for jaxpr in _jaxprs_in(equation)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _jaxprs_in(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the programs that an equation calls."""
    for value in equation.params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, core.ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, core.Jaxpr):
                yield x


def _product_flops(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    terms = math.prod(left[axis] for axis in contracted)
    return 2 * terms * equation.outvars[0].aval.size


def _convolution_flops(equation: core.JaxprEqn) -> int:
    image, kernel = (x.aval.shape for x in equation.invars)
    out = equation.outvars[0].aval.shape
    params = equation.params
    image_axes, kernel_axes, out_axes = params["dimension_numbers"]  # two, then spatial
    products = 1  # for a pair of channels
    for axis, (before, _) in enumerate(params["padding"], start=2):
        place = (
            np.arange(out[out_axes[axis]])[:, None] * params["window_strides"][axis - 2]
            + np.arange(kernel[kernel_axes[axis]]) * params["rhs_dilation"][axis - 2]
            - before
        )
        spread = params["lhs_dilation"][axis - 2]
        last = (image[image_axes[axis]] - 1) * spread
        inside = (place >= 0) & (place <= last) & (place % spread == 0)
        products *= int(inside.sum())
    examples, channels = out[out_axes[0]], out[out_axes[1]]
    return 2 * products * examples * channels * kernel[kernel_axes[1]]


def utilisation(flops: float | None, seconds: float, device_kind: str) -> float | None:
    """Returns the model FLOPs utilisation (MFU), a share of the device's peak rate.

        MFU = flops / (seconds * peak)

    Args:
      flops: operations on one device; 0 or None if unknown.
      seconds: in which they were done.
      device_kind: `jax.Device.device_kind`; None is returned for an unknown one.
    """
    peak = PEAK_FLOPS.get(device_kind)
    return flops / (seconds * peak) if flops and peak else None


def in_words(num_bytes: int) -> str:
    """Formats a number of bytes with two digits: "52 MB", "1.4 GB", "21 GB"."""
    value, unit = (
        (num_bytes / 1e9, "GB") if num_bytes >= 1e9 else (num_bytes / 1e6, "MB")
    )
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


# Peak FLOP/s of matrix products in bfloat16 with float32 sums, without sparsity, of one
# JAX device: on TPU v2, v3 and 7x that is one of the two cores of a chip.
# Source: NVIDIA's data sheets (half of the rates "with sparsity") and "TPU system
# architecture", https://docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm.
PEAK_FLOPS = {
    "NVIDIA A10": 125e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5": 459e12,  # v5p
    "TPU v5 lite": 197e12,  # v5e
    "TPU v6 lite": 918e12,  # v6e
    "TPU7x": 1153e12,
}

"""What a compiled step costs: arithmetic and memory, and the peak rate of devices."""

from typing import NamedTuple

from jax import stages


class Program(NamedTuple):
    """A compiled program, and what one call of it costs on each device.

    Attributes:
      lowered: before XLA compiled it.
      compiled: that runs.
    """

    lowered: stages.Lowered
    compiled: stages.Compiled

    @property
    def flops(self) -> float | None:
        """Floating point operations as written; the body of a loop counts once.

        Those of the lowered program: on GPUs XLA turns matrix products into calls of
        libraries, whose operations it does not count. None if unknown.
        """
        # Before XLA: https://github.com/jax-ml/jax/issues/22249
        return (self.lowered.cost_analysis() or {}).get("flops")

    @property
    def memory(self) -> int | None:
        """Bytes that the device needs while the program runs; None if unknown.

        arguments + outputs - donated arguments + temporaries + program
        """
        sizes = self.compiled.memory_analysis()
        if sizes is None:
            return None
        return (
            sizes.argument_size_in_bytes
            + sizes.output_size_in_bytes
            - sizes.alias_size_in_bytes
            + sizes.temp_size_in_bytes
            + sizes.generated_code_size_in_bytes
        )


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

"""Attention: one fused kernel on the GPUs that have it, otherwise plain XLA."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.typing import DTypeLike

from diffusion_jax.models.precision import at_least_float32

FUSED_DTYPES = ("bfloat16", "float16")
HEAD_DIM_MULTIPLE = 8


def is_fused(dtype: DTypeLike, head_dim: int, capability: int) -> bool:
    """Returns whether cuDNN's fused attention supports a head, forward and backward.

    Args:
      dtype: of queries, keys and values.
      head_dim: channels of the head.
      capability: major compute capability of the GPU, 0 if there is none.

    Source: the support matrix of cuDNN 9's scaled dot product attention, and
    `check_layout` and `check_is_flash_attention` of JAX (_src/cudnn/
    fused_attention_stablehlo.py). Capability 10.3 also needs cuDNN 9.11.
    """
    return (
        jnp.dtype(dtype).name in FUSED_DTYPES
        and head_dim % HEAD_DIM_MULTIPLE == 0
        and head_dim <= MAX_HEAD_DIM.get(capability, 0)
    )


def compute_capability() -> int:
    """Returns the major compute capability of this process's GPU, 0 if it has none."""
    found = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    major = found.split(".")[0]  # "9.0"; AMD's, such as "gfx942", are no numbers
    return int(major) if major.isdigit() else 0


def attention(
    query: Array, key: Array, value: Array, mask: Array | None = None
) -> Array:
    """Attention of one head or of several, with its softmax in float32 or wider.

        softmax(q k^T / sqrt(C)) v

    The platform is chosen when the program is lowered: the same trace is plain XLA on a
    CPU or TPU.

    Args:
      query: [B, T, C], or [B, H, T, C] of H heads.
      key: [B, S, C] or [B, H, S, C].
      value: as key.
      mask: bool, of as many axes as the logits [B, T, S] or [B, H, T, S], of size 1 or
        theirs; False where a query may not attend. None: to all.

    Returns:
      As query.

    Source: Vaswani et al. 2017, equation 1, arXiv:1706.03762.
    """
    has_kernel = is_fused(query.dtype, query.shape[-1], compute_capability())
    if mask is not None:  # cuDNN's backward pass with a mask needs even lengths
        has_kernel &= query.shape[-2] % 2 == 0 and key.shape[-2] % 2 == 0
    if not has_kernel:
        return plain(query, key, value, mask)
    return lax.platform_dependent(query, key, value, mask, cuda=fused, default=plain)


def attention_weights(query: Array, key: Array, mask: Array | None = None) -> Array:
    """Returns softmax(q k^T / sqrt(C)), [B, T, S] or [B, H, T, S] in float32 or wider.

    A query that may attend to nothing attends to everything alike.

    Args:
      query: see `attention`.
      key: see `attention`.
      mask: see `attention`.
    """
    # Not jax.nn.dot_product_attention: on CPUs it needs 1.3 to 1.5 times as long for
    # the same values, and 3 times for the gradient of several heads with a mask; and it
    # rounds the logits of float64 to float32.
    logits = jnp.einsum("...tc,...sc->...ts", query, key) * query.shape[-1] ** -0.5
    logits = at_least_float32(logits)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return nn.softmax(logits)


def plain(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """See `attention`; it keeps the weights for the gradient."""
    weights = attention_weights(query, key, mask).astype(value.dtype)
    return jnp.einsum("...ts,...sc->...tc", weights, value)


def fused(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """See `attention`; for CUDA only."""

    def with_heads(x: Array | None) -> Array | None:
        return x[:, None] if x is not None and x.ndim == 3 else x

    heads = (with_heads(x).swapaxes(1, 2) for x in (query, key, value))  # [B, T, H, C]
    attended = jax.nn.dot_product_attention(
        *heads, mask=with_heads(mask), implementation="cudnn"
    )
    return attended.swapaxes(1, 2).reshape(query.shape)


# By major compute capability: Ampere and Ada, Hopper, Blackwell. The forward pass of
# Ampere and Blackwell supports 256, too; training needs the backward pass.
MAX_HEAD_DIM = {8: 128, 9: 256, 10: 128, 12: 128}

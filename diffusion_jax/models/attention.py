"""Self-attention: one fused kernel on the GPUs that have it, otherwise plain XLA."""

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


def attention(query: Array, key: Array, value: Array) -> Array:
    """Attention of one head, with its softmax in float32 or wider.

        softmax(q k^T / sqrt(C)) v

    The platform is chosen when the program is lowered: the same trace is plain XLA on a
    CPU or TPU.

    Args:
      query: [B, T, C].
      key: [B, S, C].
      value: [B, S, C].

    Returns:
      [B, T, C].

    Source: Vaswani et al. 2017, equation 1, arXiv:1706.03762.
    """
    if not is_fused(query.dtype, query.shape[-1], compute_capability()):
        return _plain(query, key, value)
    return lax.platform_dependent(query, key, value, cuda=_fused, default=_plain)


def _plain(query: Array, key: Array, value: Array) -> Array:
    # Not jax.nn.dot_product_attention: on CPUs it needs 1.3 to 1.5 times as long for
    # the same values, and it rounds the logits of float64 to float32.
    logits = jnp.einsum("btc,bsc->bts", query, key) * query.shape[-1] ** -0.5
    weights = nn.softmax(at_least_float32(logits)).astype(value.dtype)
    return jnp.einsum("bts,bsc->btc", weights, value)


def _fused(query: Array, key: Array, value: Array) -> Array:
    heads = (x[:, :, None] for x in (query, key, value))  # [B, T, 1, C]
    return jax.nn.dot_product_attention(*heads, implementation="cudnn")[:, :, 0]


# By major compute capability: Ampere and Ada, Hopper, Blackwell. The forward pass of
# Ampere and Blackwell supports 256, too; training needs the backward pass.
MAX_HEAD_DIM = {8: 128, 9: 256, 10: 128, 12: 128}

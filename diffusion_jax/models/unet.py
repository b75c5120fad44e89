"""The U-Net of DDPM, for any resolution, square or not.

Source: Ho et al. 2020, appendix B, arXiv:2006.11239.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.lookup import lookup
from diffusion_jax.models.attention import attention
from diffusion_jax.models.dropout import ExampleDropout
from diffusion_jax.models.norms import GroupNorm
from diffusion_jax.models.precision import at_least_float32
from diffusion_jax.models.text_encoder import EncodedText, TextEncoder
from diffusion_jax.models.transformer import MultiHeadAttention

NUM_GROUPS = 32
MIN_GROUP_SIZE = 4
GROUP_NORM_EPSILON = 1e-6


def time_embedding(t: Array, features: int) -> Array:
    """Embeds timesteps as sines and cosines.

        f_k = exp(-ln(10000) k / (features/2 - 1));  [sin(t f), cos(t f)]

    Args:
      t: [B], the authors' timesteps 0..T-1, real or integer.
      features: even, at least 4.

    Returns:
      f32[B, features], always float32: bfloat16 keeps only 507 of 1000 integers apart.

    Source: Vaswani et al. 2017, section 3.5, with the authors' frequencies
    (Ho et al. 2020, appendix B).
    """
    half = features // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half) / (half - 1))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _init(scale: float = 1.0):
    # Scale 0 means 1e-10, as in the authors' code: residual branches start near 0.
    return nn.initializers.variance_scaling(max(scale, 1e-10), "fan_avg", "uniform")


def _conv(features: int, dtype: DTypeLike, name: str, scale: float = 1.0, **kwargs):
    kernel = kwargs.pop("kernel_size", (3, 3))
    return nn.Conv(
        features, kernel, dtype=dtype, kernel_init=_init(scale), name=name, **kwargs
    )


def _dense(features: int, dtype: DTypeLike, name: str, scale: float = 1.0):
    return nn.Dense(features, dtype=dtype, kernel_init=_init(scale), name=name)


def _norm(x: Array, dtype: DTypeLike, name: str) -> Array:
    """Group normalization with gcd(32, C, C // 4) groups, i.e. 32 from 128 channels on.

    Groups of one channel would remove the time embedding, which is constant within each
    channel.
    """
    channels = x.shape[-1]
    groups = math.gcd(NUM_GROUPS, channels, max(1, channels // MIN_GROUP_SIZE))
    return GroupNorm(groups, GROUP_NORM_EPSILON, dtype, name=name)(x)


class ResBlock(nn.Module):
    """Two convolutions, with the time embedding in between, and a skip connection."""

    features: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, time: Array, index: Array | None) -> Array:
        """Applies the block.

        Args:
          x: [B, H, W, C].
          time: [B, E], the embedding of time (and class).
          index: i32[B] if dropout is active; see `ExampleDropout`.

        Returns:
          [B, H, W, features].
        """
        h = nn.swish(_norm(x, self.dtype, "norm1"))
        h = _conv(self.features, self.dtype, "conv1")(h)
        h += _dense(self.features, self.dtype, "time")(nn.swish(time))[:, None, None, :]
        h = nn.swish(_norm(h, self.dtype, "norm2"))
        h = ExampleDropout(self.dropout, name="dropout")(h, index)
        h = _conv(self.features, self.dtype, "conv2", scale=0.0)(h)
        if x.shape[-1] != self.features:
            x = _dense(self.features, self.dtype, "shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels, and a skip connection."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the block to x [B, H, W, C]."""
        batch, height, width, channels = x.shape
        h = _norm(x, self.dtype, "norm").reshape(batch, height * width, channels)
        q = _dense(channels, self.dtype, "query")(h)
        k = _dense(channels, self.dtype, "key")(h)
        v = _dense(channels, self.dtype, "value")(h)
        h = attention(q, k, v)
        h = _dense(channels, self.dtype, "out", scale=0.0)(h)
        return x + h.reshape(x.shape)


class CrossAttentionBlock(nn.Module):
    """Attention of all pixels to the tokens of a caption, and a skip connection.

    Source: Rombach et al. 2022, section 3.3, arXiv:2112.10752.
    """

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, text: EncodedText) -> Array:
        """Applies the block to x [B, H, W, C].

        Raises:
          ValueError: C is no multiple of the number of heads.
        """
        batch, height, width, channels = x.shape
        if channels % self.num_heads:
            raise ValueError(
                f"At height {height} the U-Net attends to captions with {channels} "
                "channels (model.base_channels times one of channel_multipliers), "
                f"which must be a multiple of model.caption_heads = {self.num_heads}: "
                "change one of them."
            )
        h = _norm(x, self.dtype, "norm").reshape(batch, height * width, channels)
        attention = MultiHeadAttention(
            self.num_heads,
            channels,
            kernel_init=_init(),
            out_init=_init(0.0),
            dtype=self.dtype,
            name="attention",
        )
        h = attention(h, attention.keys_values(text.tokens), text.mask)
        return x + h.reshape(x.shape)


class UNet(nn.Module):
    """Predicts the noise, or another target, from a noisy image and its timestep.

    Attributes:
      base_channels: channels at full resolution.
      channel_multipliers: one per level; the resolution halves from level to level.
      num_blocks: residual blocks per level of the encoder; the decoder has one more.
      attention_resolutions: heights at which attention follows every block.
      dropout: dropout rate in the residual blocks.
      out_channels: C, or 2C if the variance is learned.
      num_classes: number of classes to condition on, or 0.
      dtype: dtype of activations; parameters stay float32.
      remat: what the backward pass computes again to save memory, a name in REMATS.
      caption_width: width of the caption encoder, or 0 for no captions.
      caption_layers: layers of the caption encoder.
      caption_heads: heads of its attention and of the cross-attention to captions,
        which follows every self-attention.
      vocabulary_size: number of token ids in captions.
      cond_image: whether an image is one of the conditions.

    Source: Ho et al. 2020, appendix B, arXiv:2006.11239.
    """

    base_channels: int
    channel_multipliers: Sequence[int]
    num_blocks: int
    attention_resolutions: Sequence[int]
    dropout: float
    out_channels: int
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    caption_width: int = 0
    caption_layers: int = 0
    caption_heads: int = 1
    vocabulary_size: int = 0
    cond_image: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Array,
        cond: Mapping[str, Array] | None = None,
        dropout_index: Array | None = None,
    ) -> Array:
        """Applies the network.

        Args:
          x: [B, H, W, C]; H and W divisible by 2^(levels - 1).
          t: [B], the authors' timesteps 0..T-1.
          cond: if num_classes > 0, "label" i32[B] in 0..num_classes, where num_classes
            means "no class". Its embedding is added to that of the timestep (Dhariwal
            and Nichol 2021, arXiv:2105.05233). If caption_width > 0, "caption" i32[B,
            L], where only padding means "no caption". The mean of its encoded tokens is
            added as well (Saharia et al. 2022, appendix D.1, arXiv:2205.11487). If
            cond_image, "cond_image" [B, h, w, c] of any size, which is resized and
            stacked on x, and "cond_noise" [B] in [0, 1], its level of noise, which is
            embedded as a timestep (Ho et al. 2022, section 3, arXiv:2106.15282).
          dropout_index: i32[B], the examples' global indices, activates dropout, which
            needs the rng "dropout"; an example's masks depend on its index.

        Returns:
          f32[B, H, W, out_channels] (f64 if dtype is float64).

        Raises:
          ValueError: the data are not images, or cannot be halved levels - 1 times; or
            remat is unknown.
        """
        levels = len(self.channel_multipliers)
        check_shape(x.shape[1:], levels)
        time, text = self._embed(t, cond, dropout_index)
        if self.cond_image:
            image = cond["cond_image"]
            shape = (*x.shape[:3], image.shape[3])
            image = jax.image.resize(image, shape, "bilinear")
            x = jnp.concatenate([x, image], axis=-1)
        remat = lookup(REMATS, self.remat, "model.remat")
        res_block, attention_block = remat(ResBlock), remat(AttentionBlock)
        cross_attention_block = remat(CrossAttentionBlock)

        def block(h: Array, features: int, name: str, attend: bool) -> Array:
            block_ = res_block(features, self.dropout, self.dtype, name=name)
            h = block_(h, time, dropout_index)
            if attend:
                h = attention_block(self.dtype, name=f"{name}_attention")(h)
            if attend and text is not None:
                heads = self.caption_heads
                attend_ = cross_attention_block(heads, self.dtype, name=f"{name}_cross")
                h = attend_(h, text)
            return h

        def level_block(h: Array, level: int, name: str) -> Array:
            features = self.base_channels * self.channel_multipliers[level]
            return block(h, features, name, h.shape[1] in self.attention_resolutions)

        h = _conv(self.base_channels, self.dtype, "conv_in")(x.astype(self.dtype))
        skips = [h]
        for level in range(levels):
            for i in range(self.num_blocks):
                h = level_block(h, level, f"down{level}_block{i}")
                skips.append(h)
            if level < levels - 1:
                h = _conv(h.shape[-1], self.dtype, f"down{level}_conv", strides=2)(h)
                skips.append(h)

        h = block(h, h.shape[-1], "middle_block0", attend=True)
        h = block(h, h.shape[-1], "middle_block1", attend=False)

        for level in reversed(range(levels)):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = level_block(h, level, f"up{level}_block{i}")
            if level > 0:
                h = h.repeat(2, axis=1).repeat(2, axis=2)
                h = _conv(h.shape[-1], self.dtype, f"up{level}_conv")(h)

        h = nn.swish(_norm(h, self.dtype, "norm_out"))
        h = _conv(self.out_channels, self.dtype, "conv_out", scale=0.0)(h)
        return at_least_float32(h)

    def _embed(
        self, t: Array, cond: Mapping[str, Array] | None, dropout_index: Array | None
    ) -> tuple[Array, EncodedText | None]:
        """Embeds what is no image, for `__call__`.

        Returns:
          [B, 4 base_channels], the sum of the embeddings of the timestep, the class,
          the level of noise and the caption; and the tokens of the caption, if any.
        """
        width = 4 * self.base_channels

        def of_time(times: Array, name: str) -> Array:
            h = time_embedding(times, self.base_channels)
            h = _dense(width, self.dtype, f"{name}1")(h)
            return _dense(width, self.dtype, f"{name}2")(nn.swish(h))

        time, text = of_time(t, "time"), None
        if self.num_classes:
            time += nn.Embed(
                self.num_classes + 1,
                width,
                dtype=self.dtype,
                embedding_init=nn.initializers.normal(1.0),
                name="label",
            )(cond["label"])
        if self.cond_image:
            time += of_time(1000 * cond["cond_noise"], "cond_noise")
        if self.caption_width:
            text = TextEncoder(
                self.vocabulary_size,
                self.caption_layers,
                self.caption_heads,
                self.caption_width,
                self.dropout,
                self.dtype,
                name="caption",
            )(cond["caption"], dropout_index)
            time += _dense(width, self.dtype, "caption_pooled")(text.pooled)
        return time, text


def check_shape(shape: Sequence[int], levels: int) -> None:
    """Checks that examples are images [H, W, C] that can be halved levels - 1 times.

    Raises:
      ValueError: they cannot.
    """
    if len(shape) != 3:
        raise ValueError(
            f"The U-Net needs images [H, W, C], and the data have shape {tuple(shape)}"
            ": choose a data.source with images."
        )
    factor = 2 ** (levels - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"The U-Net downsamples {levels - 1} times, so it needs images [H, W, C] "
            f"with height and width divisible by {factor}, but the data have shape "
            f"{tuple(shape)}. Resize the data (data.image_size) or use fewer "
            "model.channel_multipliers."
        )


# What the backward pass computes again: (a block's class) -> the class to use.
REMATS: dict[str, Callable] = {
    "none": lambda block: block,
    # All but the results of convolutions and matrix products: cheap to compute.
    "elementwise": functools.partial(
        nn.remat, policy=jax.checkpoint_policies.dots_saveable
    ),
    # All but the inputs of residual and attention blocks: a sixth more products.
    "blocks": nn.remat,
}

"""Our U-Net in PyTorch: the same layers, under the same names.

tests/parity/test_unet_torch.py compares the two. Nothing here imports JAX.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    """Group normalization with the same groups as ours."""
    groups = math.gcd(32, channels, max(1, channels // 4))
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two convolutions, with the time embedding in between, and a skip connection."""

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float):
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(width, outputs)
        self.norm2 = norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Applies the block to x [B, C, H, W] and the time embedding [B, E]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels, and a skip connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block to x [B, C, H, W]."""
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (f(h)[:, None] for f in (self.query, self.key, self.value))
        h = self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + h.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """The U-Net of DDPM, unconditional.

    Args:
      size: height and width of the images.
      channels: of the images; the output has as many.
      base_channels: as in `diffusion_jax.models.unet.UNet`, and so the others.
      channel_multipliers: one per level.
      num_blocks: residual blocks per level of the encoder.
      attention_resolutions: heights at which attention follows every block.
      dropout: rate.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float,
    ):
        super().__init__()
        self.features = base_channels
        self.levels, self.num_blocks = len(channel_multipliers), num_blocks
        width = 4 * base_channels
        self.time1 = nn.Linear(base_channels, width)
        self.time2 = nn.Linear(width, width)

        def add_block(name: str, inputs: int, outputs: int, attend: bool) -> None:
            self.add_module(name, ResBlock(inputs, outputs, width, dropout))
            if attend:
                self.add_module(f"{name}_attention", AttentionBlock(outputs))

        self.conv_in = nn.Conv2d(channels, base_channels, 3, padding=1)
        now, skips = base_channels, [base_channels]
        for level, multiplier in enumerate(channel_multipliers):
            attend = size >> level in attention_resolutions
            for i in range(num_blocks):
                add_block(
                    f"down{level}_block{i}", now, base_channels * multiplier, attend
                )
                now = base_channels * multiplier
                skips.append(now)
            if level < self.levels - 1:
                self.add_module(f"down{level}_conv", nn.Conv2d(now, now, 3, stride=2))
                skips.append(now)
        add_block("middle_block0", now, now, True)
        add_block("middle_block1", now, now, False)
        for level, multiplier in reversed(list(enumerate(channel_multipliers))):
            attend = size >> level in attention_resolutions
            for i in range(num_blocks + 1):
                inputs = now + skips.pop()
                now = base_channels * multiplier
                add_block(f"up{level}_block{i}", inputs, now, attend)
            if level > 0:
                self.add_module(f"up{level}_conv", nn.Conv2d(now, now, 3, padding=1))
        self.norm_out = norm(now)
        self.conv_out = nn.Conv2d(now, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Applies the network to x [B, C, H, W] and t [B], in 0..T-1."""
        half = self.features // 2
        k = torch.arange(half, device=x.device, dtype=torch.float32)
        angles = t.float()[:, None] * torch.exp(-math.log(10000.0) / (half - 1) * k)
        time = torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype)
        time = self.time2(F.silu(self.time1(time)))

        def block(h: Tensor, name: str) -> Tensor:
            h = self.get_submodule(name)(h, time)
            attention = f"{name}_attention"
            return self.get_submodule(attention)(h) if hasattr(self, attention) else h

        h = self.conv_in(x)
        skips = [h]
        for level in range(self.levels):
            for i in range(self.num_blocks):
                h = block(h, f"down{level}_block{i}")
                skips.append(h)
            if level < self.levels - 1:
                # Flax pads "SAME" at the end where a stride of 2 needs one row.
                h = self.get_submodule(f"down{level}_conv")(F.pad(h, (0, 1, 0, 1)))
                skips.append(h)
        h = block(block(h, "middle_block0"), "middle_block1")
        for level in reversed(range(self.levels)):
            for i in range(self.num_blocks + 1):
                h = block(torch.cat([h, skips.pop()], dim=1), f"up{level}_block{i}")
            if level > 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
                h = self.get_submodule(f"up{level}_conv")(h)
        return self.conv_out(F.silu(self.norm_out(h)))

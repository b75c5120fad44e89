"""The networks in PyTorch that ours is compared with, by the name of their project."""

import importlib
import math
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import torch_unet

# Settings of a network: size, channels, and those of our config's group model.
Settings = Mapping[str, Any]
SETTINGS = (
    "base_channels channel_multipliers num_blocks attention_resolutions dropout"
).split()


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the network that a config describes.

    Args:
      config: of a diffusion model, as plain dictionaries.

    Raises:
      ValueError: the config asks for what the networks here do not have.
    """
    model, data, diffusion = config["model"], config["data"], config["diffusion"]
    if model["name"] != "unet" or model["num_classes"] or diffusion["self_condition"]:
        raise ValueError(
            f"{config['name']}: only an unconditional U-Net has a counterpart in "
            "PyTorch here."
        )
    if diffusion["variance"].startswith("learned"):
        raise ValueError(f"{config['name']}: a learned variance is not implemented.")
    return {
        "size": data["image_size"],
        "channels": data["num_channels"],
        **{name: model[name] for name in SETTINGS},
    }


def twin(settings: Settings) -> nn.Module:
    """Our own network."""
    return torch_unet.UNet(**settings)


def diffusers_unet(settings: Settings) -> nn.Module:
    """diffusers' network with the same layers, one head and as many parameters.

    All norms have the same number of groups, that of ours at full resolution.
    """
    import diffusers

    base, multipliers = settings["base_channels"], settings["channel_multipliers"]
    attends = [
        settings["size"] >> level in settings["attention_resolutions"]
        for level in range(len(multipliers))
    ]
    return diffusers.UNet2DModel(
        sample_size=settings["size"],
        in_channels=settings["channels"],
        out_channels=settings["channels"],
        layers_per_block=settings["num_blocks"],
        block_out_channels=tuple(base * multiplier for multiplier in multipliers),
        down_block_types=tuple(
            "AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends
        ),
        up_block_types=tuple(
            "AttnUpBlock2D" if attend else "UpBlock2D" for attend in attends[::-1]
        ),
        attention_head_dim=None,
        norm_num_groups=math.gcd(32, base, max(1, base // 4)),
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        dropout=settings["dropout"],
    )


def lucidrains_unet(settings: Settings) -> nn.Module:
    """denoising-diffusion-pytorch's network of the most similar size.

    Its layers differ from ours: two blocks per level, RMS norms, linear attention at
    every resolution. Its width is the even one with the nearest number of parameters.
    """
    make = _lucidrains().Unet

    def network(dim: int) -> nn.Module:
        return make(
            dim,
            dim_mults=tuple(settings["channel_multipliers"]),
            channels=settings["channels"],
            dropout=settings["dropout"],
            flash_attn=torch.cuda.is_available(),
        )

    with torch.device("meta"):  # without memory
        wanted = num_parameters(twin(settings))
        dims = range(8, 2 * settings["base_channels"], 2)
        dim = min(dims, key=lambda dim: abs(num_parameters(network(dim)) - wanted))
    return network(dim)


def _lucidrains() -> types.ModuleType:
    """Imports denoising-diffusion-pytorch, even where torchvision cannot be imported.

    It needs torchvision only to read images for its own trainer, and a torchvision that
    was built for another PyTorch raises an error when it is imported.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        for name in [x for x in sys.modules if x.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        absent = types.ModuleType("torchvision")
        absent.transforms = absent.utils = None
        sys.modules["torchvision"] = absent
    return importlib.import_module("denoising_diffusion_pytorch")


def num_parameters(network: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(x.numel() for x in network.parameters())


def output(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """Applies any of the networks to x [B, C, H, W] and t [B], in 0..T-1."""
    result = network(x, t)
    return result if isinstance(result, Tensor) else result.sample


NETWORKS: dict[str, Callable[[Settings], nn.Module]] = {
    "torch": twin,
    "diffusers": diffusers_unet,
    "lucidrains": lucidrains_unet,
}

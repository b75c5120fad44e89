"""The PyTorch side: a train step and samplers as a good user of PyTorch writes them.

Nothing here imports JAX.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import torch_networks
from benchmarks.turns import Program, process_memory

NUM_IMAGES = 4096  # in the data set


class Setting:
    """A network on the device, with the casts that its dtype needs.

    Args:
      network: a name in torch_networks.NETWORKS.
      config: of the run, as plain dictionaries.
      dtype: "float32" or "bfloat16", of activations; parameters are float32.
      compiled: use torch.compile.
    """

    def __init__(
        self,
        network: str,
        config: Mapping[str, Any],
        dtype: str,
        compiled: bool = False,
    ):
        torch.manual_seed(0)
        self.device = prepare_device()
        self.config = config
        settings = torch_networks.settings_of(config)
        self.shape = settings["channels"], settings["size"], settings["size"]
        self.network = torch_networks.NETWORKS[network](settings)
        self.layout = torch.channels_last
        self.network.to(self.device, memory_format=self.layout)
        self.num_parameters = torch_networks.num_parameters(self.network)
        self.dtype = getattr(torch, dtype)
        self.called = torch.compile(self.network) if compiled else self.network
        diffusion = config["diffusion"]
        self.prediction = diffusion["prediction"]
        alpha_bar = make_alpha_bar(diffusion["schedule"], diffusion["num_timesteps"])
        self.alpha_bar = torch.from_numpy(alpha_bar).to(self.device)

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        """Applies the network to x [B, C, H, W] at times t [B] in 1..T."""
        is_cast = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=is_cast):
            return torch_networks.output(self.called, x, t - 1).float()

    def random(self, number: int) -> Tensor:
        """Draws noise [number, C, H, W]."""
        noise = torch.randn(number, *self.shape, device=self.device)
        return noise.to(memory_format=self.layout)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns alpha and sigma at times t [B], each [B, 1, 1, 1]."""
        alpha_bar = self.alpha_bar[t - 1].float()[:, None, None, None]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def wait(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def info(self, flops: float) -> dict[str, Any]:
        """Returns what is reported of every program of this network."""
        return {
            "parameters": self.num_parameters,
            "flops": flops,
            "device": self.device.type,
            "flops_by": "torch.utils.flop_counter",
        }

    def forward_flops(self, batch_size: int) -> int:
        """Counts the operations of the network's convolutions and products."""
        t = torch.ones(batch_size, dtype=torch.long, device=self.device)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            torch_networks.output(self.network, self.random(batch_size), t)
        return counter.get_total_flops()


def prepare_device() -> torch.device:
    """Returns the GPU, set up as JAX does by default, or else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")  # products of float32 in TF32
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda")


def make_alpha_bar(schedule: str, num_timesteps: int) -> np.ndarray:
    """Returns alpha_bar_t at index t - 1, f64[T], for the names of our schedules.

    Raises:
      ValueError: the schedule is neither linear nor cosine.
    """
    if schedule == "linear":
        betas = np.linspace(1e-4, 0.02, num_timesteps)
    elif schedule == "cosine":
        times = np.arange(num_timesteps + 1) / num_timesteps
        f = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    else:
        raise ValueError(f"The PyTorch side has no schedule {schedule!r}.")
    return np.cumprod(1 - betas)


def train_step(batch_size: int, **network: Any) -> Program:
    """Makes the train step: batch, forward, loss, backward, clipping, Adam, EMA.

    Args:
      batch_size: examples per step.
      **network: arguments of `Setting`.
    """
    setting = Setting(**network)
    config = setting.config
    net, optim = setting.network, config["optim"]
    num_timesteps = config["diffusion"]["num_timesteps"]
    net.train()
    ema = swa_utils.AveragedModel(
        net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(optim["ema_decay"])
    )
    optimizer = torch.optim.Adam(
        net.parameters(),
        lr=optim["learning_rate"],
        betas=(optim["b1"], optim["b2"]),
        eps=optim["eps"],
        fused=True,
    )
    batches = make_batches(setting, batch_size, config["data"]["flip"])

    def step() -> Tensor:
        x_0 = next(batches)
        t = torch.randint(1, num_timesteps + 1, (batch_size,), device=setting.device)
        alpha, sigma = setting.at(t)
        eps = torch.randn_like(x_0)
        target = eps if setting.prediction == "eps" else alpha * eps - sigma * x_0
        loss = F.mse_loss(setting.output(alpha * x_0 + sigma * eps, t), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if optim["clip"] != "none":
            nn.utils.clip_grad_norm_(net.parameters(), optim["clip_norm"])
        optimizer.step()
        ema.update_parameters(net)
        return loss.detach()

    def run(times: int) -> None:
        last = torch.zeros(())
        for _ in range(times):
            loss = step()
            float(last)  # the log reads the loss a step late, as ours does
            last = loss
        setting.wait()

    return Program(run, setting.info(3 * setting.forward_flops(batch_size)), memory)


def make_batches(setting: Setting, batch_size: int, flip: bool) -> Iterator[Tensor]:
    """Yields random images in [-1, 1] on the device, from host memory, flipped."""
    images = torch.randint(0, 256, (NUM_IMAGES, *setting.shape), dtype=torch.uint8)
    for number in itertools.count():
        start = number * batch_size % NUM_IMAGES
        if not number or start < batch_size:
            order = torch.randperm(NUM_IMAGES)
        index = order[torch.arange(start, start + batch_size) % NUM_IMAGES]
        batch = images[index].to(setting.device, non_blocking=True)
        batch = batch.float() / 127.5 - 1
        if flip:
            coins = torch.rand(batch_size, 1, 1, 1, device=setting.device) < 0.5
            batch = torch.where(coins, batch.flip(3), batch)
        yield batch.to(memory_format=setting.layout)


def forward(batch_size: int, **network: Any) -> Program:
    """Makes a forward pass of a batch, see `train_step`."""
    setting = Setting(**network)
    setting.network.eval()
    x = setting.random(batch_size)
    t = torch.full((batch_size,), 1, device=setting.device)

    @torch.inference_mode()
    def run(times: int) -> None:
        for _ in range(times):
            setting.output(x, t).cpu()

    return Program(run, setting.info(setting.forward_flops(batch_size)), memory)


def sample(batch_size: int, sampler: str, num_steps: int, **network: Any) -> Program:
    """Makes a run of the reverse chain for one batch, by "ddim" or "ancestral"."""
    setting = Setting(**network)
    setting.network.eval()
    num_timesteps = len(setting.alpha_bar)
    # Evenly spaced from T: the number of times counts here, not their places.
    times = np.round(num_timesteps * np.arange(num_steps, -1, -1) / num_steps)

    @torch.inference_mode()
    def run(number: int) -> None:
        for _ in range(number):
            x = setting.random(batch_size)
            for t, s in itertools.pairwise(times.astype(int)):
                x = previous(x, t, s)
            x.cpu()

    def previous(x: Tensor, t: int, s: int) -> Tensor:
        alpha_bar = setting.alpha_bar[t - 1].float()
        alpha_bar_s = (
            setting.alpha_bar[s - 1].float() if s else torch.ones_like(alpha_bar)
        )
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        output = setting.output(x, torch.full((batch_size,), t, device=setting.device))
        is_eps = setting.prediction == "eps"
        x_0 = (x - sigma * output) / alpha if is_eps else alpha * x - sigma * output
        x_0 = x_0.clamp(-1, 1)
        if not s:
            return x_0
        if sampler == "ddim":
            eps = (x - alpha * x_0) / sigma
            return alpha_bar_s.sqrt() * x_0 + (1 - alpha_bar_s).sqrt() * eps
        ratio = alpha_bar / alpha_bar_s
        mean = (1 - alpha_bar_s) * ratio.sqrt() * x + (
            1 - ratio
        ) * alpha_bar_s.sqrt() * x_0
        std = ((1 - ratio) * (1 - alpha_bar_s) / (1 - alpha_bar)).sqrt()
        return mean / (1 - alpha_bar) + std * setting.random(batch_size)

    flops = num_steps * setting.forward_flops(batch_size)
    return Program(run, setting.info(flops), memory)


def product(dtype: str, size: int) -> Program:
    """Makes a product of two matrices [size, size], the ceiling of everything else."""
    device = prepare_device()
    a, b = torch.randn(2, size, size, device=device, dtype=getattr(torch, dtype))

    def run(times: int) -> None:
        for _ in range(times):
            c = a @ b
        c[0, 0].item()  # waits

    return Program(run, {"flops": 2 * size**3}, memory)


def memory() -> int:
    """Returns the most memory used so far, of the GPU or of this process, in bytes."""
    on_gpu = torch.cuda.is_available()
    return torch.cuda.max_memory_allocated() if on_gpu else process_memory()

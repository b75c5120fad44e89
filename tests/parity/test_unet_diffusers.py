"""Our U-Net, its gradients and its samples equal diffusers' for the same weights."""

import functools
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

REASON = "needs the extra 'parity': pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=REASON)
diffusers = pytest.importorskip("diffusers", reason=REASON)

from diffusers.schedulers import scheduling_ddpm  # noqa: E402
from diffusers_weights import from_diffusers, random_tensors  # noqa: E402

from benchmarks import torch_networks  # noqa: E402
from diffusion_jax import prng  # noqa: E402
from diffusion_jax.diffusion import (  # noqa: E402
    denoiser,
    guidance,
    losses,
    samplers,
    sampling,
    schedules,
    timesteps,
)
from diffusion_jax.models.unet import UNet, time_embedding  # noqa: E402

NUM_TIMESTEPS = 1000
NUM_STEPS = 5  # of the samplers


class Case(NamedTuple):
    """A configuration, in our terms."""

    size: int
    channels: int
    base_channels: int
    channel_multipliers: tuple[int, ...]
    num_blocks: int
    attention: int  # the resolution with attention, apart from the middle block


CIFAR10 = Case(32, 3, 128, (1, 2, 2, 2), 2, 16)
# The same layers with a level and channels fewer, on small images: float64 convolutions
# are slow in XLA. (128 channels are the fewest with 32 groups in all of our norms.)
SLIM = CIFAR10._replace(size=8, attention=4, channel_multipliers=(1, 1, 1))
SMALL = Case(8, 1, 128, (1, 2), 1, 8)
ONE_LEVEL = Case(8, 1, 128, (1,), 1, 8)
LARGE = Case(256, 3, 128, (1, 1, 2, 2, 4, 4), 2, 16)


def make_ours(case: Case, dtype=jnp.float32) -> UNet:
    return UNet(
        base_channels=case.base_channels,
        channel_multipliers=case.channel_multipliers,
        num_blocks=case.num_blocks,
        attention_resolutions=(case.attention,),
        dropout=0.1,  # off in every test: no dropout_index, and eval() for theirs
        out_channels=case.channels,
        dtype=dtype,
    )


def make_theirs(case: Case):
    """diffusers' network of a case; CIFAR10 is that of google/ddpm-cifar10-32."""
    settings = {
        "size": case.size,
        "channels": case.channels,
        "base_channels": case.base_channels,
        "channel_multipliers": case.channel_multipliers,
        "num_blocks": case.num_blocks,
        "attention_resolutions": (case.attention,),
        "dropout": 0.1,
    }
    return torch_networks.diffusers_unet(settings).eval()


@functools.cache
def our_shapes(case: Case) -> dict:
    x = jax.ShapeDtypeStruct((1, case.size, case.size, case.channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(make_ours(case).init, jax.random.key(0), x, t)["params"]


def to_ours(case: Case, tensors: dict) -> dict:
    levels = len(case.channel_multipliers)
    return from_diffusers(tensors, our_shapes(case), levels)


class OurTime(torch.nn.Module):
    """Our time embedding, for their float64 network; test_time_embedding compares it.

    Both embeddings are float32 even in a float64 network, and at t = 999 an angle in
    float32 is off by up to 6e-5, which would hide other differences.
    """

    def __init__(self, features: int):
        super().__init__()
        self.features = features

    def forward(self, t):
        return torch.from_numpy(
            np.array(time_embedding(jnp.asarray(t.numpy()), self.features))
        )


@functools.cache
def make_pair(case: Case, dtype: type) -> tuple:
    """Both networks with the same random weights: theirs, ours, our parameters."""
    with torch.device("meta"):  # without its own initialization
        theirs = make_theirs(case)
    shapes = {name: tuple(leaf.shape) for name, leaf in theirs.state_dict().items()}
    tensors = random_tensors(shapes, seed=0)
    tensors = {name: value.astype(dtype) for name, value in tensors.items()}
    if dtype == np.float64:
        theirs.time_proj = OurTime(case.base_channels)
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    theirs.load_state_dict(state, assign=True)
    return theirs, make_ours(case, dtype), to_ours(case, tensors)


def to_torch(x: np.ndarray):
    """NHWC -> NCHW."""
    return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())


def to_numpy(x) -> np.ndarray:
    """NCHW -> NHWC."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def distance(ours, theirs: np.ndarray, scale: np.ndarray | None = None) -> float:
    """The RMS of the difference over the RMS of theirs, or of scale."""
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    size = np.linalg.norm(theirs if scale is None else scale)
    return float(np.linalg.norm(difference) / size)


def draw_inputs(case: Case, dtype: type) -> tuple:
    """Two images x, their times t, the first and the last, and noise eps."""
    rng = np.random.default_rng(1)
    shape = (2, case.size, case.size, case.channels)
    x, eps = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    return x, np.array([0, NUM_TIMESTEPS - 1], np.int32), eps


@pytest.mark.parametrize(
    ("case", "num_parameters"),
    [(CIFAR10, 35_746_307), (LARGE, 113_673_219), (SMALL, None)],
    ids=["cifar10", "256x256", "small"],
)
def test_layout(case, num_parameters):
    """Each of their tensors has one place in our tree, and every leaf is filled.

    Only shapes are compared, so nothing is allocated, even for the 256x256 network.
    """
    with torch.device("meta"):
        state = make_theirs(case).state_dict()
    tensors = {
        name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in state.items()
    }
    leaves = jax.tree.leaves(to_ours(case, tensors))
    assert sum(leaf.size for leaf in leaves) == sum(
        leaf.numel() for leaf in state.values()
    )
    if num_parameters is not None:
        assert sum(leaf.size for leaf in leaves) == num_parameters


def test_time_embedding():
    """At all 1000 timesteps, ours and theirs agree to the precision of an angle.

    An angle of up to 999 is rounded by 3e-5, and its frequency adds as much.
    """
    t = np.arange(NUM_TIMESTEPS)
    theirs = diffusers.models.embeddings.get_timestep_embedding(
        torch.from_numpy(t), 128, flip_sin_to_cos=False, downscale_freq_shift=1
    )
    ours = time_embedding(jnp.asarray(t), 128)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1.2e-4)
    np.testing.assert_allclose(ours[:10], theirs.numpy()[:10], rtol=0, atol=1.2e-6)


def test_cifar10_in_float32():
    """google/ddpm-cifar10-32 in full has the same output in float32.

    Distances are RMS over RMS. float32 rounds at 6e-8; the network has about 60 layers
    that sum up to 4608 products each, in another order than PyTorch, and the embedding
    of t = 999 is only accurate to 5e-5: a few 1e-6 are measured. The gradients of all
    leaves are compared in float64, below.
    """
    theirs, ours, params = make_pair(CIFAR10, np.float32)
    x, t, _ = draw_inputs(CIFAR10, np.float32)
    with torch.no_grad():
        their_output = theirs(to_torch(x), torch.from_numpy(t)).sample
    output = jax.jit(ours.apply)({"params": params}, x, t)
    assert output.dtype == np.float32
    assert distance(output, to_numpy(their_output)) < 1e-5


@pytest.mark.parametrize("case", [SLIM, SMALL], ids=["cifar10_slim", "small"])
def test_in_float64(case, x64):
    """Outputs and the gradients of all leaves are equal in float64, where only the
    mathematics can differ.

    CIFAR-10's layers, and another graph with one channel, two levels of one block, and
    attention at full resolution. Rounding is 1e-16; an epsilon of 1e-5 instead of 1e-6
    in the norms, or a stride's padding on the other side, would differ by 1e-5.
    """
    of_output, of_gradient = 1e-12, 1e-11
    theirs, ours, params = make_pair(case, np.float64)
    x, t, eps = draw_inputs(case, np.float64)

    x_torch = to_torch(x).requires_grad_()
    their_output = theirs(x_torch, torch.from_numpy(t)).sample
    torch.mean((to_torch(eps) - their_output) ** 2).backward()
    their_gradient = to_ours(
        case, {name: leaf.grad.numpy() for name, leaf in theirs.named_parameters()}
    )

    def loss(params, x):
        output = ours.apply({"params": params}, x, t)
        return losses.simple(eps, output).mean(), output

    gradients, output = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    assert output.dtype == np.float64
    measured = {
        "output": distance(output, to_numpy(their_output)) / of_output,
        "input": distance(gradients[1], to_numpy(x_torch.grad)) / of_gradient,
    }
    flat_ours, flat_theirs = (
        flax.traverse_util.flatten_dict(tree, sep="/")
        for tree in (gradients[0], their_gradient)
    )
    for path, leaf in flat_theirs.items():
        # A key's bias shifts all logits of a query equally, which softmax ignores: its
        # gradient is a rounding error, and is compared to that of the query's bias.
        scale = flat_theirs[path.replace("key/bias", "query/bias")]
        measured[path] = distance(flat_ours[path], leaf, scale) / of_gradient
    too_far = {name: value for name, value in measured.items() if not value < 1}
    assert not too_far, f"in units of the tolerance: {too_far}"


def their_table(scheduler) -> None:
    """Sets their alpha_bar to float64: their 1 - alpha_bar_1 is off by 1e-4."""
    alpha_bar = schedules.alpha_bar(schedules.linear(NUM_TIMESTEPS))
    np.testing.assert_allclose(scheduler.alphas_cumprod, alpha_bar, rtol=2e-5)
    scheduler.alphas_cumprod = torch.from_numpy(alpha_bar)


DDIM = samplers.ddim(eta=0.0)


@functools.cache
def make_chain(sampler):
    """A function (params, times, x_T, keys) -> all predictions of x_0."""
    ours = make_ours(ONE_LEVEL, np.float64)
    schedule = schedules.make("linear", NUM_TIMESTEPS)

    @jax.jit
    def chain(params, times, x_T, keys):
        def network(x, t, self_cond):
            return ours.apply({"params": params}, x, t)

        denoise = denoiser.from_network(network, "eps", schedule)
        denoise = guidance.static_thresholding(denoise)
        return sampling.sample(sampler, denoise, schedule, times, x_T, keys, NUM_STEPS)[
            1
        ]

    return chain


def check_chain(sampler, scheduler, spacing: str, keys, **step_arguments) -> None:
    """Compares all predictions of x_0, clipped, from the same noise in float64."""
    theirs, _, params = make_pair(ONE_LEVEL, np.float64)
    schedule = schedules.make("linear", NUM_TIMESTEPS)
    times = timesteps.make(spacing, schedule, NUM_STEPS)
    shape = (2, ONE_LEVEL.size, ONE_LEVEL.size, ONE_LEVEL.channels)
    x_T = np.random.default_rng(2).standard_normal(shape)

    frames = make_chain(sampler)(params, times, x_T, keys)

    their_table(scheduler)
    scheduler.set_timesteps(NUM_STEPS)
    np.testing.assert_array_equal(scheduler.timesteps, times - 1)
    x = to_torch(x_T)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            result = scheduler.step(theirs(x, t).sample, t, x, **step_arguments)
            x = result.prev_sample
            x_0 = to_numpy(result.pred_original_sample)
            assert distance(frames[:, i], x_0) < 1e-9, f"step {i}"
    assert distance(frames[:, -1], to_numpy(x)) < 1e-9
    clipped = np.mean(np.abs(frames[:, -1]) == 1)
    assert 0.01 < clipped < 0.99, (
        "all or no values are clipped, which hides differences"
    )


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_chain(spacing, x64):
    """DDIM with eta = 0 gives the same images from the same noise, step by step.

    Like ours, they derive the noise from the clipped x_0 (use_clipped_model_output;
    diffusers' default keeps the network's eps). In float64 a step's error is 1e-15, and
    random weights amplify it from step to step.
    """
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=NUM_TIMESTEPS, timestep_spacing=spacing, clip_sample=True
    )
    keys = jax.random.split(jax.random.key(0), 2)
    check_chain(
        DDIM,
        scheduler,
        spacing,
        keys,
        use_clipped_model_output=True,
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), [("fixedsmall", "fixed_small"), ("fixedlarge", "fixed_large")]
)
def test_ancestral_chain(ours, theirs, x64, monkeypatch):
    """The ancestral sampler equals DDPMScheduler for the same noise.

    Their noise is drawn from our keys; the tolerance is that of the DDIM chain.
    """
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=NUM_TIMESTEPS,
        timestep_spacing="leading",
        variance_type=theirs,
        clip_sample=True,
    )
    keys = jax.random.split(jax.random.key(0), 2)
    steps = iter(range(1, NUM_STEPS))

    def our_noise(shape, **unused):
        batch, channels, height, width = shape
        return to_torch(
            prng.normal(prng.fold_in(keys, next(steps)), (height, width, channels))
        )

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", our_noise)
    check_chain(samplers.ancestral(ours), scheduler, "leading", keys)

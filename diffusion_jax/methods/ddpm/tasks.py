"""Tasks of a trained diffusion model: sampling, editing and likelihoods.

Tasks that follow the probability-flow ODE (reconstruct, slerp, log_likelihood) use the
network without thresholding and guidance; sampling and the other edits use both.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.data.base import COND_IMAGE, Field
from diffusion_jax.diffusion import (
    editing,
    guidance,
    losses,
    ode_likelihood,
    process,
    samplers,
    sampling,
    timesteps,
)
from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.methods.base import (
    OTHER_METRIC,
    Batch,
    Task,
    as_image,
    check_at_least,
    check_range,
    rows_task,
    scalar_fields,
    with_axis,
    with_captions,
)
from diffusion_jax.methods.ddpm import checks, conditions
from diffusion_jax.methods.ddpm.conditions import Cond
from diffusion_jax.methods.ddpm.method import DDPM
from diffusion_jax.training.state import Variables

WEIGHTS = np.linspace(0, 1, 7, dtype=np.float32)  # weights of the partner
WEIGHT_NAMES = tuple(f"{weight:.2g}" for weight in WEIGHTS)
NUM_SAMPLES = 4  # per image, in translate, img2img and inpaint
SAMPLES = ("sample",) * NUM_SAMPLES  # titles of their columns
COND_NOISE = 2**31 - 1  # the key of this noise; those of the steps count from 0
MAX_EXACT_TRACE = 4096  # values per example


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Options of the reverse chain.

    Attributes:
      sampler: a name in samplers.SAMPLERS.
      num_steps: network evaluations, for samplers that need one per step.
      spacing: a name in timesteps.SPACINGS.
      eta: for ddim, in [0, 1].
      churn: for euler and heun, in [0, sqrt(2) - 1].
      thresholding: a name in guidance.THRESHOLDING.
      guidance_scale: scale of classifier-free guidance; 1 is no guidance.
      guidance_interval: (lowest, highest) log-SNR at which guidance is applied; ():
        everywhere.
      num_frames: intermediate predictions of x_0 to keep.
      cond_noise: level of the noise added to the conditioning image; see
        `conditions.add_noise`.
    """

    sampler: str
    num_steps: int
    spacing: str
    eta: float = 0.0
    churn: float = 0.0
    thresholding: str = "static"
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, ...] = ()
    num_frames: int = 0
    cond_noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class Img2ImgOptions(SampleOptions):
    """Options of tasks that start from a noised image.

    Attributes:
      strength: fraction of T at which sampling starts, in (0, 1]; 1 keeps nothing.
    """

    strength: float = 0.5


@dataclasses.dataclass(frozen=True)
class InpaintOptions(SampleOptions):
    """Options of inpainting.

    Attributes:
      num_resamplings: how often each step is run, at least 1.
    """

    num_resamplings: int = 5


@dataclasses.dataclass(frozen=True)
class ODEOptions:
    """Options of tasks that follow the probability-flow ODE.

    Attributes:
      num_steps: the solver's timesteps.
      spacing: a name in timesteps.SPACINGS.
    """

    num_steps: int
    spacing: str


@dataclasses.dataclass(frozen=True)
class LikelihoodOptions(ODEOptions):
    """Options of the likelihood from the probability-flow ODE.

    Attributes:
      num_probes: random probes per example for the divergence; 0 computes it exactly.
    """

    num_probes: int = 1


@dataclasses.dataclass(frozen=True)
class VLBOptions:
    """Options of the variational lower bound.

    Attributes:
      num_terms: number of terms t = 2..T to sample for each example, one per stratum;
        T - 1 computes all of them.
    """

    num_terms: int


def make_sample(method: DDPM, options: SampleOptions) -> Task:
    """Samples from the reverse chain.

    Returns:
      A task whose outputs are the data's field; with num_frames = k > 0 "frames"
      [B, k, ...], intermediate predictions of x_0; and the conditions "caption" and
      "cond_image" (without noise), if the model has them.

    Raises:
      ValueError: the options are invalid for the method.

    Source: Ho et al. 2020, algorithm 2, arXiv:2006.11239.
    """
    chain = Chain(method, options)

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        keys = prng.example_keys(key, batch["index"])
        x_T = prng.normal(prng.fold_in(keys, 0), method.field.shape)
        loop = chain.loop(variables, method.cond_of(batch), keys)
        x_0, frames = sampling.sample(
            *loop, x_T, keys, options.num_frames, method.self_condition
        )
        found = {method.data: x_0} | ({"frames": frames} if options.num_frames else {})
        if COND_IMAGE in method.inputs:
            found[COND_IMAGE] = batch[COND_IMAGE]
        return found

    outputs = {method.data: method.field}
    if options.num_frames:
        outputs["frames"] = with_axis(method.field, options.num_frames, "frame")
    if COND_IMAGE in method.inputs:
        outputs[COND_IMAGE] = method.condition(COND_IMAGE)
    task = Task(run, method.inputs, outputs)
    return with_captions(task, method.condition("caption"))


def make_translate(method: DDPM, options: SampleOptions) -> Task:
    """Samples from conditioning images: rows of one, 4 samples, the example itself.

    Raises:
      ValueError: the model is not conditioned on an image, or the options are invalid.

    Source: Saharia et al. 2022, figure 1, arXiv:2111.05826.
    """
    if COND_IMAGE not in method.inputs:
        raise ValueError(
            "The task translate needs a model that is conditioned on images: train "
            "with model.cond_image=True, or choose another sample.task."
        )
    chain = Chain(method, options)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        cond, index = method.cond_of(batch), batch["index"]

        def draw(draw_key: Array) -> Array:
            keys = prng.example_keys(draw_key, index)
            x_T = prng.normal(prng.fold_in(keys, 0), method.field.shape)
            loop = chain.loop(variables, cond, keys)
            rest = x_T, keys, 0, method.self_condition
            return sampling.sample(*loop, *rest)[0]

        shown = as_image(cond[COND_IMAGE], method.field.shape)
        draws = lax.map(draw, jax.random.split(key, NUM_SAMPLES))
        return [shown, *draws, batch[method.data]]

    names = "condition", *SAMPLES, "real"
    task = rows_task(rows, _inputs(method), method.field, names)
    return with_captions(task, method.condition("caption"))


def make_reconstruct(method: DDPM, options: ODEOptions) -> Task:
    """Encodes examples to x_T by DDIM and decodes them: rows of x_0, x_T, decoded.

    Source: Song et al. 2021, section 5.4, arXiv:2010.02502.
    """
    times = timesteps.make(options.spacing, method.schedule, options.num_steps)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        x_0 = batch[method.data]
        denoise = method.denoiser(variables, method.cond_of(batch))
        x_T = editing.encode(denoise, method.schedule, times, x_0)
        keys = prng.example_keys(key, batch["index"])
        return [x_0, x_T, _decode(method, denoise, times, x_T, keys)]

    names = "image", "x_T", "reconstruction"
    return rows_task(rows, _inputs(method), method.field, names)


def make_slerp(method: DDPM, options: ODEOptions) -> Task:
    """Interpolates along the arc between the x_T of an example and of its partner.

    Source: Song et al. 2021, section 5.3 and appendix D.5, arXiv:2010.02502.
    """
    times = timesteps.make(options.spacing, method.schedule, options.num_steps)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        x_0, partner = batch[method.data], batch[f"partner_{method.data}"]
        keys = prng.example_keys(key, batch["index"])

        def denoiser(weight: Array) -> Denoiser:
            return method.denoiser(variables, _mixed_cond(method, batch, weight))

        def encode(end: tuple[Array, Array]) -> Array:
            weight, x = end
            return editing.encode(denoiser(weight), method.schedule, times, x)

        ends = lax.map(encode, (jnp.array([0.0, 1.0]), jnp.stack([x_0, partner])))

        def draw(weight: Array) -> Array:
            x_T = editing.slerp(*ends, weight)
            return _decode(method, denoiser(weight), times, x_T, keys)

        return [x_0, *lax.map(draw, jnp.asarray(WEIGHTS)), partner]

    inputs = _inputs(method)
    inputs += tuple(f"partner_{name}" for name in inputs)
    names = "image", *WEIGHT_NAMES, "partner"
    return rows_task(rows, inputs, method.field, names)


def make_interpolate(method: DDPM, options: Img2ImgOptions) -> Task:
    """Mixes an example with its partner under the same noise, and denoises the mixture.

    Source: Ho et al. 2020, section 4.4 and figure 8, arXiv:2006.11239.
    """
    chain = Chain(method, options, options.strength)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        x_0, partner = batch[method.data], batch[f"partner_{method.data}"]
        keys = prng.example_keys(key, batch["index"])

        def draw(weight: Array) -> Array:
            loop = chain.loop(variables, _mixed_cond(method, batch, weight), keys)
            rest = partner, weight, keys, method.self_condition
            return editing.interpolate(*loop, x_0, *rest)

        return [x_0, *lax.map(draw, jnp.asarray(WEIGHTS)), partner]

    inputs = _inputs(method)
    inputs += tuple(f"partner_{name}" for name in inputs)
    names = "image", *WEIGHT_NAMES, "partner"
    return rows_task(rows, inputs, method.field, names)


def make_img2img(method: DDPM, options: Img2ImgOptions) -> Task:
    """Noises an example up to `strength` and denoises it: the example and 4 samples.

    Source: Meng et al. 2022 (SDEdit), arXiv:2108.01073.
    """
    chain = Chain(method, options, options.strength)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        x_0, index = batch[method.data], batch["index"]
        cond = method.cond_of(batch)

        def draw(draw_key: Array) -> Array:
            keys = prng.example_keys(draw_key, index)
            loop = chain.loop(variables, cond, keys)
            return editing.img2img(*loop, x_0, keys, method.self_condition)

        return [x_0, *lax.map(draw, jax.random.split(key, NUM_SAMPLES))]

    return rows_task(rows, _inputs(method), method.field, ("image", *SAMPLES))


def make_inpaint(method: DDPM, options: InpaintOptions) -> Task:
    """Inpaints the right half of an example: rows of it, its left half, 4 samples.

    The left half is the first half of the next to last axis (the width of images).

    Source: Lugmayr et al. 2022 (RePaint), arXiv:2201.09865.
    """
    chain = Chain(method, options)
    check_at_least("sample.num_resamplings", options.num_resamplings, 1)

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        x_0, index = batch[method.data], batch["index"]
        width = x_0.shape[-2]
        mask = (jnp.arange(width) < width // 2)[:, None]
        mask = mask.reshape((1,) * (x_0.ndim - 2) + mask.shape)
        left = jnp.where(mask, x_0, 0.0)
        cond = method.cond_of(batch)

        def draw(draw_key: Array) -> Array:
            keys = prng.example_keys(draw_key, index)
            loop = chain.loop(variables, cond, keys)
            rest = keys, options.num_resamplings, 0, method.self_condition
            return editing.inpaint(*loop, left, mask, *rest)[0]

        return [x_0, left, *lax.map(draw, jax.random.split(key, NUM_SAMPLES))]

    names = "image", "left half", *SAMPLES
    return rows_task(rows, _inputs(method), method.field, names)


def make_vlb(method: DDPM, options: VLBOptions) -> Task:
    """Estimates the three terms of each example's variational bound, in nats.

    Unbiased for any num_terms = k: the timesteps 2..T are cut into k strata, and
    stratum j is represented by t_j = 2 + floor((T - 1) (j + u) / k), u uniform, one per
    example. The predicted x_0 is clipped to [-1, 1], as in the authors' evaluation.

    Returns:
      A task with the outputs "prior", "transitions", "decoder" and "error", the squared
      error of x_0 at t = 1, [B] each; and by stratum, [B, k]: "nats", the timestep
      "time" and "strata_error", the squared error there.

    Raises:
      ValueError: num_terms lies outside 1..T-1, or the data are not 8-bit images.

    Source: Ho et al. 2020, equation 5, arXiv:2006.11239.
    """
    num_terms, schedule = options.num_terms, method.schedule
    check_range(method.field, "eval.metric vlb or rate_distortion", OTHER_METRIC, True)
    last = method.num_timesteps - 1
    if not 1 <= num_terms <= last:
        raise ValueError(
            f"eval.num_terms must lie in 1..{last} (num_timesteps - 1), not "
            f"{num_terms}."
        )
    width = last / num_terms
    # On the host, and split: j + u in float32 may round up to j + 1.
    part, whole = np.modf(width * np.arange(num_terms))
    starts = whole.astype(np.int32), part.astype(np.float32)

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        x_0 = batch[method.data]
        keys = prng.example_keys(key, batch["index"])
        denoise = method.denoiser(variables, method.cond_of(batch))
        denoise = guidance.static_thresholding(denoise)

        def term(t: Array) -> tuple[Array, Array]:
            eps = prng.normal(jax.vmap(jax.random.fold_in)(keys, t), x_0.shape[1:])
            x_t = process.q_sample(x_0, schedule(t), eps)
            x_0_hat, model_var_values = denoise(x_t, t, None)
            log_variance = losses.reverse_log_variance(
                method.variance, schedule, t, model_var_values
            )
            nats = losses.vlb_term(x_0, x_t, x_0_hat, t, schedule, log_variance)
            return nats, losses.simple(x_0, x_0_hat)

        u = prng.uniform(prng.fold_in(keys, 0))

        def stratum(_, start: tuple[Array, Array]):
            whole, part = start
            t = 2 + whole + jnp.floor(part + width * u).astype(jnp.int32)
            t = jnp.minimum(t, method.num_timesteps)
            nats, error = term(t)
            return None, {"nats": width * nats, "time": t, "strata_error": error}

        _, strata = lax.scan(stratum, None, starts)
        decoder, error = term(jnp.ones(x_0.shape[0], jnp.int32))
        return {
            "prior": losses.prior_term(x_0, schedule),
            "transitions": jnp.sum(strata["nats"], axis=0),
            "decoder": decoder,
            "error": error,
        } | jax.tree.map(jnp.transpose, strata)

    outputs = scalar_fields("prior", "transitions", "decoder", "error")
    for name in ("nats", "time", "strata_error"):
        outputs[name] = Field((num_terms,), np.float32, "vector")
    return Task(run, _inputs(method), outputs)


def make_log_likelihood(method: DDPM, options: LikelihoodOptions) -> Task:
    """Computes each example's log-density with the probability-flow ODE, in nats.

    Examples are dequantised and taken as x_1 / alpha_1: their density is that of
    x_1 = alpha_1 x_0 times alpha_1^D. The timesteps are those of sampling plus T and 1.

    Returns:
      A task with the output "log_likelihood", [B].

    Raises:
      ValueError: the data are not 8-bit images, the schedule leaves no signal at T, or
        examples are too large for an exact trace.

    Source: Song et al. 2021, equation 39, arXiv:2011.13456.
    """
    schedule, size = method.schedule, math.prod(method.field.shape)
    check_range(method.field, "eval.metric ode_likelihood", OTHER_METRIC, True)
    check_at_least("eval.num_probes", options.num_probes, 0)
    if not options.num_probes and size > MAX_EXACT_TRACE:
        raise ValueError(
            f"An exact trace of {size} values takes {size} network evaluations per "
            "step: set eval.num_probes to 1 or more."
        )
    if schedule.ends_in_noise:
        raise ValueError(
            "The schedule leaves no signal at time T, where the probability-flow ODE "
            "would start infinitely far away: ode_likelihood is not available."
        )
    times = timesteps.make(options.spacing, schedule, options.num_steps)
    ends = np.array([method.num_timesteps, 1])
    times = np.unique(np.concatenate([times, ends]))[::-1]

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        keys = jax.vmap(jax.random.split)(prng.example_keys(key, batch["index"]))
        x_0 = ode_likelihood.dequantize(keys[:, 0], batch[method.data])
        probes = (
            ode_likelihood.random_probes(
                keys[:, 1], options.num_probes, method.field.shape
            )
            if options.num_probes
            else ode_likelihood.basis_probes(method.field.shape)
        )
        denoise = method.denoiser(variables, method.cond_of(batch))
        alpha = process.alpha(schedule(1))
        nats = ode_likelihood.log_likelihood(
            denoise, schedule, times, alpha * x_0, probes
        )
        return {"log_likelihood": nats + size * jnp.log(alpha)}

    return Task(run, _inputs(method), scalar_fields("log_likelihood"))


class Chain:
    """The reverse chain that options describe.

    Args:
      method: that is sampled.
      options: how.
      strength: share of T at which the chain starts, in (0, 1].

    Raises:
      ValueError: the options are invalid or do not fit the method.
    """

    def __init__(self, method: DDPM, options: SampleOptions, strength: float = 1.0):
        self._method, self._options = method, options
        self._sampler = samplers.make(
            options.sampler, method.variance, eta=options.eta, churn=options.churn
        )
        times = timesteps.make(options.spacing, method.schedule, options.num_steps)
        checks.check_sampling(method, options, self._sampler, times)
        if not 0 < strength <= 1:
            raise ValueError(f"sample.strength must lie in (0, 1], not {strength}.")
        self._timesteps = times[times <= strength * method.num_timesteps]
        if not len(self._timesteps):
            raise ValueError(
                f"sample.strength = {strength} lies below the sampler's last timestep, "
                f"{times[-1]} of {method.num_timesteps}: increase it, or use more "
                "sample.num_steps."
            )

    def loop(
        self,
        variables: Variables,
        cond: Cond,
        keys: Array,
        guidance_scale: float | Array | None = None,
    ) -> tuple:
        """Returns (sampler, denoiser, schedule, timesteps) for the sampling loop.

        The denoiser applies guidance, then thresholding.

        Args:
          variables: of the model.
          cond: the conditions, whose image gets noise at the options' level.
          keys: [B], one per example.
          guidance_scale: None for that of the options.
        """
        method, options = self._method, self._options
        scale = options.guidance_scale if guidance_scale is None else guidance_scale
        if options.cond_noise:
            level = jnp.full(len(keys), options.cond_noise)
            cond = conditions.add_noise(cond, level, prng.fold_in(keys, COND_NOISE))
        denoise = method.denoiser(variables, cond)
        if guidance_scale is not None or scale != 1.0:
            denoise = guidance.classifier_free(
                denoise,
                method.denoiser(
                    variables, conditions.drop_all(method.conditions, cond)
                ),
                scale,
                method.schedule,
                tuple(options.guidance_interval) or guidance.EVERYWHERE,
            )
        denoise = guidance.THRESHOLDING[options.thresholding](denoise)
        return self._sampler, denoise, method.schedule, self._timesteps


def _decode(method: DDPM, denoise: Denoiser, times, x_T: Array, keys: Array) -> Array:
    rest = method.schedule, times, x_T, keys
    return sampling.sample(samplers.ddim(), denoise, *rest)[0]


def _mixed_cond(method: DDPM, batch: Batch, weight: Array) -> Cond:
    """Returns the partners' conditions if weight > 0.5, otherwise the examples'."""
    mixed = {
        name: jnp.where(weight > 0.5, batch[f"partner_{name}"], batch[name])
        for name in method.inputs
    }
    return method.cond_of(mixed)


def _inputs(method: DDPM) -> tuple[str, ...]:
    """The data and its conditions."""
    return (method.data, *method.inputs)


TASKS: dict[str, tuple[type, Callable[..., Task]]] = {
    "sample": (SampleOptions, make_sample),
    "translate": (SampleOptions, make_translate),
    "reconstruct": (ODEOptions, make_reconstruct),
    "interpolate": (Img2ImgOptions, make_interpolate),
    "slerp": (ODEOptions, make_slerp),
    "inpaint": (InpaintOptions, make_inpaint),
    "img2img": (Img2ImgOptions, make_img2img),
    "vlb": (VLBOptions, make_vlb),
    "log_likelihood": (LikelihoodOptions, make_log_likelihood),
}

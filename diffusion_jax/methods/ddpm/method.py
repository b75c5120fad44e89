"""Denoising diffusion probabilistic models (Ho et al. 2020)."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.diffusion import guidance, losses, ode_likelihood, process, sampling
from diffusion_jax.diffusion.sampling import Denoiser, Sampler
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.diffusion.time_samplers import TimestepSampler
from diffusion_jax.methods.base import Aux, Batch, Method, PyTree, View, deal_labels
from diffusion_jax.methods.ddpm import tasks
from diffusion_jax.training.state import Phase

GROUP = "net"
MAX_PIXELS = 4096  # of an exact trace


class Sampling(NamedTuple):
    """How samples are drawn.

    Attributes:
      sampler: from one time to the next.
      knots: [N], falling: the times at which a step begins.
      clip: of the predicted x_0, a name of guidance.THRESHOLDING.
      guidance_scale: of classifier-free guidance; 1 is none.
      guidance_interval: of log-SNR, within which there is guidance.
      label: of every sample; -1 deals all classes out in turn.
      num_frames: how many intermediate predictions of x_0 a sample comes with.
      start: share of T at which views that begin with a noised picture begin.
      num_resamplings: of a step, when filling in what a picture lacks.
    """

    sampler: Sampler
    knots: np.ndarray
    clip: str
    guidance_scale: float
    guidance_interval: tuple[float, float]
    label: int
    num_frames: int
    start: float
    num_resamplings: int


@dataclasses.dataclass(frozen=True)
class DDPM(Method):
    """A network trained by denoising, sampled by a reverse chain.

    Attributes:
      phases: one, which trains the group "net".
      network: (x_t [B,H,W,C], [B] in 0..T-1, dropout_index, label) -> [B,H,W,C], or
        2C channels where the variance is learned; x_t has 2C under self-conditioning.
      image_shape: (H, W, C).
      schedule: log-SNR of time.
      prediction: what the network predicts, a name of process.PREDICTIONS.
      loss_name: a name of losses.LOSSES.
      variance: of the reverse chain, a name of process.VARIANCES or LEARNED_VARIANCES.
      timestep_sampler: how training draws times.
      num_classes: 0 where the network is not told the class.
      cond_dropout: share of examples whose class it is not told in training.
      self_condition: whether it is shown its last prediction of x_0.
      sampling: how samples are drawn.
      num_terms: how many of the bound's terms t = 2..T evaluation draws for each image,
        one a stratum; T - 1 is all of them, exactly.
      num_probes: of the flow's divergence, for each image; 0 computes it exactly.
    """

    phases: tuple[Phase, ...]
    network: nn.Module
    image_shape: tuple[int, int, int]
    schedule: Schedule
    prediction: str
    loss_name: str
    variance: str
    timestep_sampler: TimestepSampler
    num_classes: int
    cond_dropout: float
    self_condition: bool
    sampling: Sampling
    num_terms: int
    num_probes: int

    measures: ClassVar[tuple[str, ...]] = (
        "bound",
        "rate_distortion",
        "ode_likelihood",
        "samples",
    )

    @property
    def views(self) -> dict[str, View]:
        """What can be seen of it beside samples."""

        def bound(view) -> View:
            # A diffusion network has no batch statistics.
            return lambda params, _, batch, key: view(self, params, batch, key)

        return {name: bound(view) for name, view in tasks.VIEWS.items()}

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.schedule.num_timesteps

    @property
    def learned_variance(self) -> bool:
        """Whether half of the network's channels speak of the variance."""
        return self.variance in process.LEARNED_VARIANCES

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Initialises the network; extra is what drawing times has to remember."""
        height, width, channels = self.image_shape
        x = jnp.zeros((1, height, width, channels * (1 + self.self_condition)))
        t = jnp.zeros(1, jnp.int32)
        label = {"label": t} if self.num_classes else {}
        variables = self.network.init(key, x, t, **label)
        return (
            {GROUP: variables["params"]},
            {},
            self.timestep_sampler.init(self.num_timesteps),
        )

    def loss(
        self,
        phase: str,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        extra: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> tuple[Array, Aux]:
        """Algorithm 1 of Ho et al. 2020: noise a batch, and score the prediction."""
        x_0, index = batch["image"], batch["index"]
        time_key, noise_key, dropout_key, label_key, self_key = jax.random.split(key, 5)
        t, weight = self.timestep_sampler.draw(time_key, index, self.schedule, extra)
        eps = prng.normal(prng.example_keys(noise_key, index), x_0.shape[1:])
        x_t = process.q_sample(x_0, self.schedule(t), eps)
        label = self._dropped(batch, label_key)
        shown = self._shown(params, x_t, t, label, self_key)
        row, logsnrs = self._row, (self.schedule(t - 1), self.schedule(t))
        output = self._network(params, label, shown, index, dropout_key)(
            process.align(row.input_scale(logsnrs[1]), x_t) * x_t, t - 1
        )
        values = None
        if self.learned_variance:
            output, values = jnp.split(output, 2, axis=-1)
        guess = losses.ModelOutput(
            x_0=x_0,
            x_t=x_t,
            t=t,
            target=row.target(x_0, eps, x_t, *logsnrs),
            output=output,
            x_0_hat=row.to_x0(x_t, output, *logsnrs),
            gain=row.gain(*logsnrs),
            values=values,
        )
        found = losses.Chain(self.schedule, self.variance)
        by_example = losses.LOSSES[self.loss_name](guess, found)
        observed = {"t": t, "loss": lax.stop_gradient(by_example)}
        return jnp.mean(weight * by_example), Aux({}, model_state, observed)

    def remember(self, extra: PyTree, observed: PyTree) -> PyTree:
        """Keeps the losses of the times that were drawn, for the next draw."""
        return self.timestep_sampler.remember(extra, observed["t"], observed["loss"])

    @property
    def _row(self) -> process.Prediction:
        return process.PREDICTIONS[self.prediction]

    def _dropped(self, batch: Batch, key: Array) -> Array | None:
        """The labels, some replaced by "none", which is num_classes."""
        if not self.num_classes:
            return None
        keys = prng.example_keys(key, batch["index"])
        drop = jax.vmap(lambda k: jax.random.bernoulli(k, self.cond_dropout))(keys)
        return jnp.where(drop, self.num_classes, batch["label"])

    def _shown(self, params, x_t, t, label, key) -> Array | None:
        """What self-conditioning shows in training: in half of the steps, 0.

        Source: Chen et al. 2023, algorithm 1, arXiv:2208.04202.
        """
        if not self.self_condition:
            return None

        def guess(x_t: Array) -> Array:
            zeros = jnp.zeros_like(x_t)
            denoise = self._x_0(self._denoiser(params, label, zeros))
            clip = guidance.THRESHOLDING[self.sampling.clip]  # as in the walk
            return lax.stop_gradient(clip(denoise)(x_t, t))

        # One coin a step, the same on all devices: in the other half of the steps the
        # second pass costs nothing.
        return lax.cond(jax.random.bernoulli(key), guess, jnp.zeros_like, x_t)

    def _network(self, params, label, shown, index=None, dropout_key=None):
        """(x_t, t in 0..T-1) -> output, given a label and the last x_0, if any."""
        options = {} if label is None else {"label": label}
        if index is not None:
            options |= {"dropout_index": index, "rngs": {"dropout": dropout_key}}

        def network(x_t: Array, t: Array) -> Array:
            x = x_t if shown is None else jnp.concatenate([x_t, shown], axis=-1)
            return self.network.apply({"params": params[GROUP]}, x, t, **options)

        return network

    def _denoiser(self, params, label, shown) -> Denoiser:
        """Predicts x_0, or (x_0, values) where the variance is learned."""
        network = self._network(params, label, shown)
        return guidance.from_network(
            network, self.prediction, self.schedule, self.learned_variance
        )

    def _x_0(self, denoise: Denoiser) -> Denoiser:
        return guidance.without_variance(denoise) if self.learned_variance else denoise

    def _unshown(self, x: Array) -> Array | None:
        return jnp.zeros_like(x) if self.self_condition else None

    def evaluate(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> dict[str, Array]:
        """The variational bound of each image in its three parts, nats, f32[B] each.

        Unbiased for any num_terms: stratum j of the times 2..T is represented by
        t_j = 2 + floor((T - 1) (j + u) / k), u uniform, one an image. The predicted x_0
        is clipped, as the authors do in evaluation. Images are given their class, and
        no last prediction.

        Beside the parts, by stratum, f32[B, k]: "nats" of it, "time" it was drawn at,
        and "error", the squared error of x_0 there, a mean over the image.
        """
        x_0 = batch["image"]
        keys = prng.example_keys(key, batch["index"])
        label = batch["label"] if self.num_classes else None
        denoise = self._denoiser(params, label, self._unshown(x_0))
        denoise = guidance.static_thresholding(denoise)

        def term(t: Array) -> tuple[Array, Array]:
            noise_keys = jax.vmap(jax.random.fold_in)(keys, t)
            eps = prng.normal(noise_keys, x_0.shape[1:])
            x_t = process.q_sample(x_0, self.schedule(t), eps)
            found = denoise(x_t, t)
            x_0_hat, values = found if self.learned_variance else (found, None)
            log_variance = losses.reverse_log_variance(
                self.variance, self.schedule, t, values
            )
            rest = x_0_hat, t, self.schedule, log_variance
            return losses.vlb_term(x_0, x_t, *rest), losses.simple(x_0, x_0_hat)

        stratum_keys = prng.fold_in(keys, 0)
        u = jax.vmap(jax.random.uniform)(stratum_keys)
        width = (self.num_timesteps - 1) / self.num_terms

        def stratum(_, start: tuple[Array, Array]):
            whole, part = start
            t = 2 + whole + jnp.floor(part + width * u).astype(jnp.int32)
            t = jnp.minimum(t, self.num_timesteps)
            nats, error = term(t)
            return None, {"nats": width * nats, "time": t, "error": error}

        # On the host, and split: j + u in float32 may round up to j + 1.
        part, whole = np.modf(width * np.arange(self.num_terms))
        starts = whole.astype(np.int32), part.astype(np.float32)
        _, strata = lax.scan(stratum, None, starts)
        decoder, error = term(jnp.ones(x_0.shape[0], jnp.int32))
        return {
            "prior": losses.prior_term(x_0, self.schedule, self.num_timesteps),
            "transitions": jnp.sum(strata["nats"], axis=0),
            "decoder": decoder,
            "error": error,
            "strata": jax.tree.map(jnp.transpose, strata),
        }

    def denoiser(self, params: dict[str, PyTree], label: Array | None) -> Denoiser:
        """The trained denoiser with all that sampling wraps around it.

        Args:
          params: by group.
          label: i32[B], or None where the network is not told the class.

        Returns:
          (x_t, t, last x_0 if self_condition) -> x_0, or (x_0, values) for a sampler
          that needs_variance.
        """
        options = self.sampling

        def denoise(x_t: Array, t: Array, shown: Array | None = None):
            found = self._denoiser(params, label, shown)
            if not options.sampler.needs_variance:
                found = self._x_0(found)
            if label is not None and options.guidance_scale != 1.0:
                none = jnp.full_like(label, self.num_classes)
                found = guidance.classifier_free(
                    found,
                    self._x_0(self._denoiser(params, none, shown)),
                    options.guidance_scale,
                    self.schedule,
                    options.guidance_interval,
                )
            return guidance.THRESHOLDING[options.clip](found)(x_t, t)

        return denoise

    def flow_denoiser(self, params: dict[str, PyTree], label: Array | None) -> Denoiser:
        """The network's own x_0, whose flow is one ODE in both directions.

        It is not clipped, not guided, and shown no last prediction: (x_t, t) -> x_0.
        """

        def denoise(x_t: Array, t: Array) -> Array:
            found = self._denoiser(params, label, self._unshown(x_t))
            return self._x_0(found)(x_t, t)

        return denoise

    def log_likelihood(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> Array:
        """Log-density of each image by the probability-flow ODE, nats, f32[B].

        Images are dequantised, and taken as x_1 / alpha_1: their density is that of
        x_1 = alpha_1 x_0 times alpha_1^D. The knots are those of sampling, and T and 1.

        Raises:
          ValueError: the schedule leaves no signal at T, or pictures are too large for
            an exact trace.
        """
        size = math.prod(self.image_shape)
        if not self.num_probes and size > MAX_PIXELS:
            raise ValueError(
                f"An exact trace of {size} values takes as many passes: set "
                "eval.num_probes to 1 or more."
            )
        schedule, knots = self.schedule, self.sampling.knots
        with jax.ensure_compile_time_eval():
            if jnp.isneginf(schedule(self.num_timesteps)):
                raise ValueError(
                    "The schedule leaves no signal at time T, and the flow would have "
                    "to begin infinitely far away: there is no ode_likelihood."
                )
        ends = np.array([self.num_timesteps, 1])
        times = np.unique(np.concatenate([knots, ends]))[::-1]
        keys = jax.vmap(jax.random.split)(prng.example_keys(key, batch["index"]))
        x_0 = ode_likelihood.dequantize(keys[:, 0], batch["image"])
        probes = (
            ode_likelihood.random_probes(keys[:, 1], self.num_probes, self.image_shape)
            if self.num_probes
            else ode_likelihood.basis_probes(self.image_shape)
        )
        label = batch["label"] if self.num_classes else None
        denoise, alpha = self.flow_denoiser(params, label), process.alpha(schedule(1))
        nats = ode_likelihood.log_likelihood(
            denoise, schedule, times, alpha * x_0, probes
        )
        return nats + size * jnp.log(alpha)

    def sample(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        index: Array,
        key: Array,
    ) -> Batch:
        """Algorithm 2: image [n,H,W,C] in [-1, 1], frames [n,k,H,W,C], and label [n]
        where there are classes."""
        options = self.sampling
        label = deal_labels(index, options.label, self.num_classes)
        batch = {"index": index} | ({} if label is None else {"label": label})
        keys = prng.example_keys(key, index)
        start_keys = prng.fold_in(keys, 0)
        batch["image"], batch["frames"] = sampling.sample(
            options.sampler,
            self.denoiser(params, label),
            self.schedule,
            options.knots,
            prng.normal(start_keys, self.image_shape),
            keys,
            options.num_frames,
            self.self_condition,
        )
        return batch

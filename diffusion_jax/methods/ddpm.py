"""Denoising diffusion probabilistic models (Ho et al. 2020)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion_jax.diffusion import guidance, losses, process, samplers, times
from diffusion_jax.diffusion.samplers import Sampler
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.methods.base import Aux, Batch, PyTree
from diffusion_jax.training.state import Phase

GROUP = "net"


@dataclasses.dataclass(frozen=True)
class DDPM:
    """A noise-predicting network, trained by denoising, sampled by a reverse chain.

    Attributes:
      phases: one, which trains the group "net".
      network: (x_t [B,H,W,C], i32[B] in 0..T-1, dropout_index) -> [B,H,W,C].
      image_shape: (H, W, C).
      schedule: log-SNR of time.
      num_timesteps: T.
      prediction: what the network predicts, a name of process.PREDICTIONS.
      loss_name: a name of losses.LOSSES; "simple" is a mean over the image, "bound" is
        one drawn term of the bound in bits/dim (the whole bound is T times its mean).
      variance: of the reverse chain, a name of process.VARIANCES.
      sampler: how samples are drawn.
      knots: i32[N], falling: the times at which it calls the network.
      clip: whether samplers clip the predicted x_0 to [-1, 1].
      num_frames: how many intermediate predictions of x_0 a sample comes with.
      num_terms: how many of the bound's terms t = 2..T evaluation draws for each image,
        one a stratum; T - 1 is all of them, exactly.
    """

    phases: tuple[Phase, ...]
    network: nn.Module
    image_shape: tuple[int, int, int]
    schedule: Schedule
    num_timesteps: int
    prediction: str
    loss_name: str
    variance: str
    sampler: Sampler
    knots: np.ndarray
    clip: bool
    num_frames: int
    num_terms: int

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Initialises the network; it has no batch statistics and no extra state."""
        x = jnp.zeros((1, *self.image_shape))
        variables = self.network.init(key, x, jnp.zeros(1, jnp.int32))
        return {GROUP: variables["params"]}, {}, ()

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
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        t = times.uniform_times(fold(time_key, index), self.num_timesteps)
        eps = samplers.normal(fold(noise_key, index), x_0.shape[1:])
        x_t = process.q_sample(x_0, self.schedule(t), eps)
        output = self.network.apply(
            {"params": params[GROUP]},
            x_t,
            t - 1,
            dropout_index=index,
            rngs={"dropout": dropout_key},
        )
        by_example = self._loss_by_example(x_0, eps, x_t, t, output)
        return jnp.mean(by_example), Aux({}, model_state, extra)

    def _loss_by_example(
        self, x_0: Array, eps: Array, x_t: Array, t: Array, output: Array
    ) -> Array:
        prediction = process.PREDICTIONS[self.prediction]
        logsnrs = self.schedule(t - 1), self.schedule(t)
        if self.loss_name == "simple":
            target = prediction.target(x_0, eps, x_t, *logsnrs)
            return losses.simple(target, output)
        x_0_hat = prediction.to_x0(x_t, output, *logsnrs)
        log_variance = losses.reverse_log_variance(self.variance, self.schedule, t)
        nats = losses.bound_term(x_0, x_t, x_0_hat, t, self.schedule, log_variance)
        return nats / (x_0[0].size * jnp.log(2.0))  # the authors' scale: bits/dim

    def _denoiser(self, params: dict[str, PyTree], clip: bool) -> samplers.Denoiser:
        def network(x_t: Array, t: Array) -> Array:
            return self.network.apply({"params": params[GROUP]}, x_t, t)

        denoise = guidance.from_network(network, self.prediction, self.schedule)
        return guidance.clipped(denoise) if clip else denoise

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
        is clipped, as the authors do in evaluation.
        """
        x_0 = batch["image"]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
        denoise = self._denoiser(params, clip=True)

        def term(t: Array) -> Array:
            noise_keys = jax.vmap(jax.random.fold_in)(keys, t)
            eps = samplers.normal(noise_keys, x_0.shape[1:])
            x_t = process.q_sample(x_0, self.schedule(t), eps)
            log_variance = losses.reverse_log_variance(self.variance, self.schedule, t)
            x_0_hat = denoise(x_t, t)
            return losses.bound_term(x_0, x_t, x_0_hat, t, self.schedule, log_variance)

        stratum_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
        u = jax.vmap(jax.random.uniform)(stratum_keys)
        width = (self.num_timesteps - 1) / self.num_terms

        def stratum(total: Array, start: tuple[Array, Array]) -> tuple[Array, None]:
            whole, part = start
            t = 2 + whole + jnp.floor(part + width * u).astype(jnp.int32)
            return total + term(jnp.minimum(t, self.num_timesteps)), None

        # On the host, and split: j + u in float32 may round up to j + 1.
        part, whole = np.modf(width * np.arange(self.num_terms))
        starts = whole.astype(np.int32), part.astype(np.float32)
        total, _ = lax.scan(stratum, jnp.zeros(x_0.shape[0]), starts)
        return {
            "prior": losses.prior_term(x_0, self.schedule, self.num_timesteps),
            "transitions": width * total,
            "decoder": term(jnp.ones(x_0.shape[0], jnp.int32)),
        }

    def sample(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        index: Array,
        key: Array,
    ) -> Batch:
        """Algorithm 2: image [n,H,W,C] in [-1, 1] and frames [n,k,H,W,C]."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        start_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
        x_T = samplers.normal(start_keys, self.image_shape)
        x_0, frames = samplers.sample(
            self.sampler,
            self._denoiser(params, self.clip),
            self.schedule,
            self.knots,
            x_T,
            keys,
            self.num_frames,
        )
        return {"index": index, "image": x_0, "frames": frames}

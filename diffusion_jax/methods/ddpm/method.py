"""Denoising diffusion probabilistic models (Ho et al. 2020)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffusion_jax import prng
from diffusion_jax.data.base import COND_IMAGE, Field
from diffusion_jax.diffusion import denoiser, guidance, losses, process
from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.diffusion.time_samplers import TimestepSampler
from diffusion_jax.methods.base import GROUP, Batch, PyTree, SingleNetwork
from diffusion_jax.methods.ddpm import conditions
from diffusion_jax.methods.ddpm.conditions import Cond, Condition
from diffusion_jax.training.state import Loss, Variables


@dataclasses.dataclass(frozen=True)
class DDPM(SingleNetwork):
    """A network trained by denoising; sampling runs the reverse chain.

    Attributes:
      phases: one, which trains the group "net".
      network: (x_t [B, ...], t [B] in 0..T-1, cond, dropout_index) -> [B, ...], with
        twice the channels where the variance is learned; cond holds the conditions by
        name. Under self-conditioning x_t has twice the channels.
      data: name of the field that is modelled, such as "image".
      field: its shape and kind; the last axis is channels.
      schedule: log-SNR as a function of time.
      prediction: the network's target, a name in process.PREDICTIONS.
      loss_name: a name in losses.LOSSES.
      variance: a name in process.VARIANCES or process.LEARNED_VARIANCES.
      timestep_sampler: how training draws timesteps.
      conditions: the fields that the network is conditioned on.
      cond_noise: highest level of the noise that training adds to the conditioning
        image, in [0, 1]; see `conditions.add_noise`.
      self_condition: whether the network also receives its previous prediction of x_0.
      thresholding: thresholding of that prediction in training, a name in
        guidance.THRESHOLDING.
    """

    schedule: Schedule
    prediction: str
    loss_name: str
    variance: str
    timestep_sampler: TimestepSampler
    conditions: tuple[Condition, ...] = ()
    cond_noise: float = 0.0
    self_condition: bool = False
    thresholding: str = "none"

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.schedule.num_timesteps

    @property
    def learned_variance(self) -> bool:
        """Whether half of the network's output channels are model_var_values."""
        return self.variance in process.LEARNED_VARIANCES

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return tuple(condition.name for condition in self.conditions)

    def condition(self, name: str) -> Field | None:
        """Returns the field of a condition, or None if the network has no such one."""
        return next((c.field for c in self.conditions if c.name == name), None)

    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises the network; aux is the timestep sampler's state."""
        *axes, channels = self.field.shape
        x = jnp.zeros((1, *axes, channels * (1 + self.self_condition)))
        batch = {
            c.name: jnp.zeros((1, *c.field.shape), c.field.dtype)
            for c in self.conditions
        }
        t, cond = jnp.zeros(1, jnp.int32), self.cond_of(batch)
        params = self.network.init(key, x, t, cond)["params"]
        aux = self.timestep_sampler.init(self.num_timesteps)
        return Variables({GROUP: params}, {}), aux

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """Algorithm 1 of Ho et al. 2020: the loss of a prediction from noised data."""
        x_0, index = batch[self.data], batch["index"]
        time_key, noise_key, dropout_key, cond_key, self_key = jax.random.split(key, 5)
        t, weight = self.timestep_sampler.sample(time_key, index, self.schedule, aux)
        logsnr_s, logsnr_t = self.schedule(t - 1), self.schedule(t)
        eps = prng.normal(prng.example_keys(noise_key, index), x_0.shape[1:])
        x_t = process.q_sample(x_0, logsnr_t, eps)

        cond_keys = prng.example_keys(cond_key, index)
        cond = conditions.drop(self.conditions, self.cond_of(batch), cond_keys)
        if self.cond_noise:
            level = self.cond_noise * prng.uniform(prng.fold_in(cond_keys, 0))
            cond = conditions.add_noise(cond, level, prng.fold_in(cond_keys, 1))
        self_cond = self._self_cond(variables, x_t, t, cond, self_key)
        prediction = process.PREDICTIONS[self.prediction]
        output = self._apply(
            variables,
            process.align(prediction.input_scale(logsnr_t), x_t) * x_t,
            t - 1,
            cond,
            self_cond,
            dropout_index=index,
            rngs={"dropout": dropout_key},
        )
        model_var_values = None
        if self.learned_variance:
            output, model_var_values = jnp.split(output, 2, axis=-1)
        by_example = losses.LOSSES[self.loss_name](
            losses.ModelOutput(
                x_0=x_0,
                x_t=x_t,
                t=t,
                target=prediction.target(x_0, eps, x_t, logsnr_s, logsnr_t),
                output=output,
                x_0_hat=prediction.to_x0(x_t, output, logsnr_s, logsnr_t),
                gain=prediction.gain(logsnr_s, logsnr_t),
                model_var_values=model_var_values,
            ),
            self.schedule,
            self.variance,
        )
        observed = {"t": t, "loss": lax.stop_gradient(by_example)}
        return Loss(jnp.mean(weight * by_example), observed=observed)

    def after_step(
        self, variables: Variables, aux: PyTree, observed: PyTree
    ) -> tuple[dict[str, PyTree], PyTree]:
        """Updates the timestep sampler with the losses at the sampled timesteps."""
        aux = self.timestep_sampler.update(aux, observed["t"], observed["loss"])
        return variables.state, aux

    def cond_of(self, batch: Batch) -> Cond:
        """Returns the conditions in a batch by name, without noise."""
        cond = {name: batch[name] for name in self.inputs}
        if COND_IMAGE in cond:
            cond[conditions.NOISE] = jnp.zeros(len(cond[COND_IMAGE]))
        return cond

    def denoiser(self, variables: Variables, cond: Cond) -> Denoiser:
        """Returns the network as a denoiser, without thresholding or guidance."""

        def network(x_t: Array, t: Array, self_cond: Array | None) -> Array:
            return self._apply(variables, x_t, t, cond, self_cond)

        return denoiser.from_network(
            network, self.prediction, self.schedule, self.learned_variance
        )

    def _apply(self, variables, x, t, cond, self_cond, **options) -> Array:
        if self.self_condition:
            self_cond = jnp.zeros_like(x) if self_cond is None else self_cond
            x = jnp.concatenate([x, self_cond], axis=-1)
        params = {"params": variables.params[GROUP]}
        return self.network.apply(params, x, t, cond, **options)

    def _self_cond(self, variables, x_t, t, cond, key) -> Array | None:
        """The network's prediction of x_0 in half of the steps, otherwise 0.

        Source: Chen et al. 2023, algorithm 1, arXiv:2208.04202.
        """
        if not self.self_condition:
            return None
        threshold = guidance.THRESHOLDING[self.thresholding]
        denoise = threshold(self.denoiser(variables, cond))

        def predict(x_t: Array) -> Array:
            return lax.stop_gradient(denoise(x_t, t, None).x_0)

        # One coin flip per step, the same on all devices, so that half of the steps
        # skip the extra forward pass.
        return lax.cond(jax.random.bernoulli(key), predict, jnp.zeros_like, x_t)

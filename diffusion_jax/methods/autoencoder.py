"""The autoencoder, and the variational autoencoder (Kingma and Welling 2014)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax import prng
from diffusion_jax.data.base import Field
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import config as common
from diffusion_jax.methods import latent_tasks
from diffusion_jax.methods.base import (
    GROUP,
    RECONSTRUCTED,
    Batch,
    Family,
    Fields,
    NoOptions,
    PyTree,
    SingleNetwork,
    Task,
    check_at_least,
    check_range,
    data_field,
    make_network,
    rows_task,
    scalar_fields,
    single_phase,
)
from diffusion_jax.models import AUTOENCODERS
from diffusion_jax.objectives import variational
from diffusion_jax.objectives.variational import LIKELIHOODS, Likelihood
from diffusion_jax.training.state import Loss, Variables

MOMENTUM = 0.9  # of the running moments of an autoencoder's latents, per step
MIN_VARIANCE = 1e-6  # for latents that are constant


@dataclasses.dataclass(frozen=True)
class LatentNetwork(SingleNetwork):
    """A network with the methods `encode` and `decode`, and a likelihood of the data.

    Attributes:
      num_latents: Z.
      likelihood: the distribution of the data given the decoder's output.
      noise_scale: standard deviation of a Gaussian likelihood, in units of the data.
    """

    num_latents: int
    likelihood: Likelihood
    noise_scale: float

    inputs = ()  # no conditions

    @property
    def encoder_inputs(self) -> tuple[str, ...]:
        """The encoder reads the data."""
        return (self.data,)

    def log_likelihood(self, variables: Variables, target: Array, z: Array) -> Array:
        """Returns log p(target | z) in nats, [B]."""
        output = self.apply(variables, z, method="decode")
        return self.likelihood.log_likelihood(target, output, self.noise_scale)

    def expected_data(self, variables: Variables, z: Array) -> Array:
        """Returns E[x | z] for latents on the scale of the decoder."""
        return self.likelihood.mean(self.apply(variables, z, method="decode"))


class Autoencoder(LatentNetwork):
    """An encoder and a decoder, trained to reconstruct their input.

    Training tracks the latents' mean and variance. `encode` returns standardised
    latents, and sampling decodes normal noise with that mean and variance, because an
    autoencoder has no prior.
    """

    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises the network, and the latents' mean and variance to 0 and 1."""
        variables, aux = super().init(key)
        zeros = jnp.zeros(self.num_latents)
        moments = {"mean": zeros, "square": zeros + 1}
        return variables._replace(state={GROUP: moments}), aux

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """-log p(x | z(x)), with z the encoder's output."""
        x = batch[self.data]
        z, _ = self.apply(variables, x, method="encode")
        nats = -self.log_likelihood(variables, self.likelihood.target(x), z)
        moments = {"mean": jnp.mean(z, 0), "square": jnp.mean(jnp.square(z), 0)}
        moments = jax.tree.map(
            lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new,
            variables.state[GROUP],
            jax.lax.stop_gradient(moments),
        )
        return Loss(jnp.mean(nats), state={GROUP: moments})

    def encode(self, variables: Variables, batch: Batch, key: Array) -> Array:
        """Returns the standardised latent of each example, [B, Z]."""
        z, _ = self.apply(variables, batch[self.data], method="encode")
        mean, scale = _moments(variables)
        return (z - mean) / scale

    def decode(self, variables: Variables, z: Array, batch: Batch) -> Array:
        """Returns the expected data [B, ...] of standardised latents."""
        mean, scale = _moments(variables)
        return self.expected_data(variables, z * scale + mean)


@dataclasses.dataclass(frozen=True)
class VAE(LatentNetwork):
    """An autoencoder whose latent distribution is pulled towards a standard normal.

    Attributes:
      beta: weight of the KL divergence; 1 is the ELBO (Higgins et al. 2017).
      binarize: whether every step and evaluation resamples pixels from a Bernoulli.
    """

    beta: float
    binarize: bool

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """The negative ELBO, -log p(x|z) + beta KL(q(z|x) || p(z)), for one sample z.

        Source: Kingma and Welling 2014, equation 10, arXiv:1312.6114.
        """
        keys = prng.example_keys(key, batch["index"])
        x = self.binarized(batch[self.data], prng.fold_in(keys, 0))
        mean, logvar = self.apply(variables, x, method="encode")
        eps = prng.normal(prng.fold_in(keys, 1), (self.num_latents,))
        z = variational.reparameterize(mean, logvar, eps)
        nats = -self.log_likelihood(variables, self.likelihood.target(x), z)
        by_latent = variational.kl_to_standard_normal(mean, logvar)
        kl = jnp.sum(by_latent, axis=1)
        metrics = {"reconstruction": jnp.mean(nats), "kl": jnp.mean(kl)}
        return Loss(jnp.mean(nats + self.beta * kl), metrics)

    def binarized(self, x: Array, keys: Array) -> Array:
        """Draws -1 or 1 for each pixel with P(1) = (x + 1) / 2, if `binarize`."""
        if not self.binarize:
            return x
        return jnp.where(prng.uniform(keys, x.shape[1:]) < (x + 1) / 2, 1.0, -1.0)

    def encode(self, variables: Variables, batch: Batch, key: Array) -> Array:
        """Returns the posterior mean of each example, [B, Z]."""
        return self.apply(variables, batch[self.data], method="encode")[0]

    def decode(self, variables: Variables, z: Array, batch: Batch) -> Array:
        """Returns the expected data [B, ...] of latents."""
        return self.expected_data(variables, z)


@dataclasses.dataclass(frozen=True)
class ELBOOptions:
    """Options of the ELBO.

    Attributes:
      num_importance: samples of the importance-weighted bound, at least 1.
    """

    num_importance: int


def make_reconstruct(method: Autoencoder | VAE, options: NoOptions) -> Task:
    """Returns the task with the output "rows" [B, 2, ...]: x and its reconstruction."""

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        z = method.encode(variables, batch, key)
        return [batch[method.data], method.decode(variables, z, batch)]

    return rows_task(rows, (method.data,), method.field, RECONSTRUCTED)


def make_elbo(method: VAE, options: ELBOOptions) -> Task:
    """Estimates the ELBO and the importance-weighted bound of each example, in nats.

    Returns:
      A task with the outputs "reconstruction" and "kl", from one sample of z, and
      "importance_bound", [B] each, and "latent" [B, Z], the posterior mean.
    """
    check_at_least("eval.num_importance", options.num_importance, 1)

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        keys = prng.example_keys(key, batch["index"])
        x = method.binarized(batch[method.data], prng.fold_in(keys, 0))
        target = method.likelihood.target(x)
        mean, logvar = method.apply(variables, x, method="encode")

        def draw(number: Array) -> tuple[Array, Array]:
            eps = prng.normal(prng.fold_in(keys, number), (method.num_latents,))
            z = variational.reparameterize(mean, logvar, eps)
            nats = method.log_likelihood(variables, target, z)
            return nats, variational.log_importance_weight(nats, z, mean, logvar)

        numbers = jnp.arange(1, options.num_importance + 1)
        log_likelihoods, log_weights = jax.lax.map(draw, numbers)
        by_latent = variational.kl_to_standard_normal(mean, logvar)
        return {
            "reconstruction": -log_likelihoods[0],
            "kl": jnp.sum(by_latent, axis=1),
            "importance_bound": variational.importance_bound(log_weights),
            "latent": mean,
        }

    outputs = scalar_fields("reconstruction", "kl", "importance_bound")
    outputs["latent"] = Field((method.num_latents,), np.float32, "vector")
    return Task(run, (method.data,), outputs)


def _moments(variables: Variables) -> tuple[Array, Array]:
    """Mean and standard deviation of the latents, [1, Z] each."""
    moments = variables.state[GROUP]
    mean = moments["mean"][None]
    variance = moments["square"][None] - jnp.square(mean)
    return mean, jnp.sqrt(jnp.maximum(variance, MIN_VARIANCE))


def _defaults(method: str) -> ConfigDict:
    """Defaults of both families, with the networks of Kingma and Welling 2014."""
    config = common.defaults(method)
    config.model = config_dict.create(
        name="dense",  # or conv, with channels and strides instead of hidden
        hidden=(500,),  # widths of the encoder's hidden layers; the decoder mirrors it
        num_latents=20,  # Z
    )
    config[method] = config_dict.create(
        likelihood="gaussian",  # or bernoulli
        noise_scale=1.0,  # of gaussian: standard deviation, in units of [-1, 1]
    )
    return config


def autoencoder_defaults() -> ConfigDict:
    """Returns the defaults of an autoencoder."""
    config = _defaults("autoencoder")
    config.sample.task, config.eval.metric = "reconstruct", "reconstruction"
    return config


def vae_defaults() -> ConfigDict:
    """Returns the defaults of a VAE: 784-500-20-500-784 for MNIST."""
    config = _defaults("vae")
    config.vae.likelihood = "bernoulli"
    config.vae.beta = 1.0  # weight of the KL divergence, at least 0
    config.vae.binarize = False  # resample pixels from a Bernoulli in every step
    config.eval.metric = "elbo"
    config.eval.num_importance = 100  # samples of the importance-weighted bound
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    if config.model.name == "conv":
        config.model.update(channels=(4, 4), strides=(1, 2))
    else:
        config.model.hidden = (16,)
    if config.method == "vae":
        config.model.num_latents, config.eval.num_importance = 3, 2


def _options(config: ConfigDict, fields: Fields, variational: bool) -> dict:
    """The attributes of an Autoencoder by name."""
    options, num_latents = config[config.method], config.model.num_latents
    data, field = data_field(fields)
    likelihood = f"{config.method}.likelihood"
    if options.likelihood == "bernoulli":
        check_range(field, f"{likelihood} 'bernoulli'", f"set {likelihood}=gaussian")
    return {
        "phases": single_phase(config),
        "network": make_network(
            AUTOENCODERS, config, data_shape=field.shape, variational=variational
        ),
        "data": data,
        "field": field,
        "num_latents": num_latents,
        "likelihood": lookup(LIKELIHOODS, options.likelihood, likelihood),
        "noise_scale": options.noise_scale,
    }


def make_autoencoder(config: ConfigDict, fields: Fields) -> Autoencoder:
    """Builds an autoencoder from the groups model, autoencoder and optim."""
    return Autoencoder(**_options(config, fields, variational=False))


def make_vae(config: ConfigDict, fields: Fields) -> VAE:
    """Builds a VAE from the groups model, vae and optim."""
    vae = config.vae
    if vae.binarize and vae.likelihood != "bernoulli":
        raise ValueError(
            "vae.binarize draws pixels from a Bernoulli, which does not match "
            f"vae.likelihood {vae.likelihood!r}: choose bernoulli, or binarize=False."
        )
    options = _options(config, fields, variational=True)
    return VAE(**options, beta=vae.beta, binarize=vae.binarize)


TASKS = latent_tasks.TASKS | {"reconstruct": (NoOptions, make_reconstruct)}
AUTOENCODER_FAMILY = Family(make_autoencoder, autoencoder_defaults, TASKS)
VAE_TASKS = TASKS | {"elbo": (ELBOOptions, make_elbo)}
VAE_FAMILY = Family(make_vae, vae_defaults, VAE_TASKS)

"""Autoencoders with discrete latents: dVAE (Ramesh et al. 2021) and VQ-VAE.

They turn images into grids of codes and back. There is no prior over codes, and so no
task `sample`: a second model, such as DALL-E's Transformer, learns it.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax import prng
from diffusion_jax.data.base import Field
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import config as common
from diffusion_jax.methods.base import (
    RECONSTRUCTED,
    Batch,
    Family,
    Fields,
    Method,
    NoOptions,
    PyTree,
    Task,
    check_range,
    data_field,
    make_network,
    rows_task,
)
from diffusion_jax.models import DISCRETE_AUTOENCODERS
from diffusion_jax.models.discrete import nearest
from diffusion_jax.objectives import discrete
from diffusion_jax.objectives.discrete import LIKELIHOODS
from diffusion_jax.objectives.variational import Likelihood
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Loss, Phase, Variables

GROUP = "dvae"  # the phase and the parameter group; another family can copy the group


@dataclasses.dataclass(frozen=True)
class DiscreteAutoencoder(Method):
    """What both kinds have in common.

    The state holds "counts" f32[K], a moving average of how often a batch uses each
    code. Perplexity and usage are logged from it, because they are not means over the
    examples of a device.

    Attributes:
      phases: one, which trains the group "dvae".
      network: of `models.discrete`.
      data: name of the field that is modelled.
      field: its shape and range.
      likelihood: the distribution of the data given the decoder's output.
      noise_scale: standard deviation of a Gaussian likelihood, in units of the data.
      decay: of moving averages, per step.
    """

    phases: tuple[Phase, ...]
    network: nn.Module
    data: str
    field: Field
    likelihood: Likelihood
    noise_scale: float
    decay: float

    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises the network; each code has been used once."""
        groups = self.network.init(key, jnp.zeros((1, *self.field.shape)))
        state = {"counts": jnp.ones(self.network.num_codes)}
        if "codebook" in groups:
            embedding = groups["codebook"]["embedding"]
            state |= {"embedding": embedding, "sums": jnp.copy(embedding)}
        return Variables({GROUP: groups["params"]}, {GROUP: state}), ()

    def apply(self, variables: Variables, *args: Array, method: str) -> Array:
        """Calls a method of the network by name."""
        groups = {"params": variables.params[GROUP], "codebook": variables.state[GROUP]}
        return self.network.apply(groups, *args, method=method)

    def codes(self, variables: Variables, images: Array) -> Array:
        """Returns the codes of images, without noise.

        Args:
          variables: with the group "dvae"; other groups are ignored.
          images: [B, H, W, C] in [-1, 1].

        Returns:
          i32[B, h, w] in 0..network.num_codes-1, where (h, w) is network.grid.
        """
        return self.apply(variables, images, method="codes")

    def images(self, variables: Variables, codes: Array) -> Array:
        """Returns the mean of p(x | codes), or the median of the logit-Laplace.

        Args:
          variables: with the group "dvae"; other groups are ignored.
          codes: i32[B, h, w].

        Returns:
          [B, H, W, C].
        """
        return self.likelihood.mean(self.apply(variables, codes, method="decode"))

    def nats(self, x: Array, output: Array) -> Array:
        """Returns -log p(x | codes) of the decoder's output, [B]."""
        target = self.likelihood.target(x)
        return -self.likelihood.log_likelihood(target, output, self.noise_scale)

    def use_of_codes(self, variables: Variables) -> dict[str, Array]:
        """Returns the perplexity of the codes and the share in use, before the step."""
        counts = variables.state[GROUP]["counts"]
        return {
            "perplexity": discrete.perplexity(counts),
            "usage": jnp.mean(discrete.in_use(counts)),
        }


@dataclasses.dataclass(frozen=True)
class DVAE(DiscreteAutoencoder):
    """A VAE whose latents are categorical, relaxed in training.

    Attributes:
      temperatures: of the relaxation at the first step and from temperature_steps on.
      temperature_steps: see `discrete.cosine`.
      kl_weight: of the KL divergence from the uniform distribution; 1 is the ELBO.
      kl_warmup_steps: the weight rises from 0 in as many steps.
      straight_through: whether the decoder gets one-hot codes, with the gradient of
        relaxed ones.
    """

    temperatures: tuple[float, float]
    temperature_steps: int
    kl_weight: float
    kl_warmup_steps: int
    straight_through: bool

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """The relaxed negative ELBO, -log p(x | z) + beta KL(q(z | x) || uniform).

        Source: Ramesh et al. 2021, section 2.1 and appendix A.2, arXiv:2102.12092.
        """
        x, keys = batch[self.data], prng.example_keys(key, batch["index"])
        logits = self.apply(variables, x, method="logits")
        temperature = discrete.cosine(step, *self.temperatures, self.temperature_steps)
        gumbel = prng.gumbel(keys, logits.shape[1:])
        weights = discrete.gumbel_softmax(logits, gumbel, temperature)
        if self.straight_through:
            hard = jax.nn.one_hot(jnp.argmax(weights, axis=-1), logits.shape[-1])
            weights = discrete.straight_through(hard, weights)
        output = self.apply(variables, weights, method="decode_relaxed")
        nats, kl = self.nats(x, output), discrete.kl_to_uniform(logits)
        beta = discrete.cosine(step, 0.0, self.kl_weight, self.kl_warmup_steps)
        metrics = {
            "reconstruction": jnp.mean(nats),
            "kl": jnp.mean(kl),
            "temperature": temperature,
            **self.use_of_codes(variables),
        }
        codes = jnp.argmax(logits, axis=-1)
        return Loss(jnp.mean(nats + beta * kl), metrics, observed={"codes": codes})

    def after_step(
        self, variables: Variables, aux: PyTree, observed: PyTree
    ) -> tuple[dict[str, PyTree], PyTree]:
        """Updates the counts with the most likely codes of the whole batch."""
        counts = variables.state[GROUP]["counts"]
        counts = discrete.moving_counts(counts, observed["codes"], self.decay)
        return variables.state | {GROUP: {"counts": counts}}, aux


@dataclasses.dataclass(frozen=True)
class VQVAE(DiscreteAutoencoder):
    """An autoencoder that rounds the encoder's vectors to entries of a codebook.

    The codebook is a moving average of the vectors that chose each entry.

    Attributes:
      commitment: weight of the distance from the vectors to their entries.
      restart: whether dead codes are moved; see `discrete.restart_dead_codes`.
    """

    commitment: float
    restart: bool

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """-log p(x | e) + beta |z - sg(e)|^2, where the decoder's gradient skips e.

        The second term moves the encoder's z only. The paper's term |sg(z) - e|^2 is
        the moving average.

        Source: van den Oord et al. 2017, equation 3, arXiv:1711.00937.
        """
        x, keys = batch[self.data], prng.example_keys(key, batch["index"])
        vectors = self.apply(variables, x, method="vectors")
        embedding = variables.state[GROUP]["embedding"]
        codes = nearest(vectors, embedding)
        entries = embedding[codes]
        rounded = discrete.straight_through(entries, vectors)
        nats = self.nats(x, self.apply(variables, rounded, method="decode_vectors"))
        distance = jnp.sum(jnp.square(vectors - entries), axis=(1, 2, 3))
        metrics = {
            "reconstruction": jnp.mean(nats),
            "commitment": jnp.mean(distance),
            **self.use_of_codes(variables),
        }
        observed = {
            "codes": codes,
            "vectors": jax.lax.stop_gradient(vectors),
            "priority": prng.uniform(keys, codes.shape[1:]),
        }
        value = jnp.mean(nats + self.commitment * distance)
        return Loss(value, metrics, observed=observed)

    def after_step(
        self, variables: Variables, aux: PyTree, observed: PyTree
    ) -> tuple[dict[str, PyTree], PyTree]:
        """Moves the codebook by the vectors of the whole batch."""
        codebook, vectors = variables.state[GROUP], observed["vectors"]
        codebook = discrete.moving_codebook(
            codebook, vectors, observed["codes"], self.decay
        )
        if self.restart:
            codebook = discrete.restart_dead_codes(
                codebook, vectors, observed["priority"]
            )
        return variables.state | {GROUP: codebook}, aux


def make_reconstruct(method: DiscreteAutoencoder, options: NoOptions) -> Task:
    """Returns the task with the output "rows" [B, 2, ...]: x and its reconstruction."""

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        x = batch[method.data]
        return [x, method.images(variables, method.codes(variables, x))]

    return rows_task(rows, (method.data,), method.field, RECONSTRUCTED)


def make_codes(method: DiscreteAutoencoder, options: NoOptions) -> Task:
    """Returns the task with the output "codes" i32[B, h w], the grid row by row."""

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        codes = method.codes(variables, batch[method.data])
        return {"codes": codes.reshape(len(codes), -1)}

    network = method.network
    size = math.prod(network.grid)
    field = Field((size,), np.int32, "tokens", size=network.num_codes)
    return Task(run, (method.data,), {"codes": field})


def defaults() -> ConfigDict:
    """Returns the settings of the dVAE of DALL-E, with the network of VQ-VAE."""
    config = common.defaults("dvae")
    config.model = config_dict.create(
        name="gumbel",  # dVAE; or vq: VQ-VAE
        num_codes=8192,  # K, at least 2
        num_features=128,  # length of an embedding
        width=256,  # channels of the convolutions
        num_downsamplings=3,  # each halves the size; codes: 32x32 of 256x256 pixels
        num_blocks=2,  # residual blocks of the encoder, and of the decoder
    )
    config.dvae = config_dict.create(
        likelihood="logit_laplace",  # or gaussian, bernoulli
        noise_scale=1.0,  # of gaussian: standard deviation, in units of [-1, 1]
        decay=0.99,  # of the moving codebook and of the codes' counts, in [0, 1)
        temperature_start=1.0,  # of gumbel, as all to straight_through; above 0
        temperature_end=1 / 16,  # above 0
        temperature_steps=150_000,  # of the cosine between both, at least 1
        kl_weight=6.6,  # at least 0; 1: the ELBO
        kl_warmup_steps=5000,  # in which the weight rises from 0, at least 1
        straight_through=False,  # one-hot codes, with the gradient of relaxed ones
        commitment=0.25,  # of vq: weight of the distance to the codebook, at least 0
        restart=True,  # of vq: move dead codes to vectors of the batch
    )
    config.sample.task, config.eval.metric = "reconstruct", "codes"
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    config.model.update(num_codes=8, num_features=4, width=8, num_downsamplings=1)
    config.model.num_blocks = 1


def make(config: ConfigDict, fields: Fields) -> DiscreteAutoencoder:
    """Builds a dVAE or a VQ-VAE from the groups model, dvae and optim."""
    options = config.dvae
    data, field = data_field(fields, ("image",))
    likelihood = lookup(LIKELIHOODS, options.likelihood, "dvae.likelihood")
    if options.likelihood != "gaussian":
        what = f"dvae.likelihood {options.likelihood!r}"
        check_range(field, what, "set dvae.likelihood=gaussian")
    network = make_network(
        DISCRETE_AUTOENCODERS,
        config,
        data_shape=field.shape,
        num_parameters=likelihood.num_parameters,
    )
    shared = {
        "phases": (Phase(GROUP, (GROUP,), optimizers.make(**config.optim)),),
        "network": network,
        "data": data,
        "field": field,
        "likelihood": likelihood,
        "noise_scale": options.noise_scale,
        "decay": options.decay,
    }
    if config.model.name == "vq":
        return VQVAE(**shared, commitment=options.commitment, restart=options.restart)
    return DVAE(
        **shared,
        temperatures=(options.temperature_start, options.temperature_end),
        temperature_steps=options.temperature_steps,
        kl_weight=options.kl_weight,
        kl_warmup_steps=options.kl_warmup_steps,
        straight_through=options.straight_through,
    )


TASKS = {"reconstruct": (NoOptions, make_reconstruct), "codes": (NoOptions, make_codes)}
FAMILY = Family(make, defaults, TASKS)

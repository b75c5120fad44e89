"""Generative adversarial networks (Goodfellow et al. 2014), including DCGAN."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax import prng
from diffusion_jax.data.base import Field
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import config as common
from diffusion_jax.methods import latent_tasks
from diffusion_jax.methods.base import (
    Batch,
    Family,
    Fields,
    Method,
    PyTree,
    check_range,
    data_field,
    make_network,
)
from diffusion_jax.models import GANS
from diffusion_jax.objectives import adversarial
from diffusion_jax.objectives.adversarial import GAN_LOSSES, GANLoss
from diffusion_jax.training import optimizers, parallel
from diffusion_jax.training.state import Loss, Phase, Variables

GEN, DISC = "gen", "disc"  # phases and parameter groups
# Batches of noise that recalibrate the averaged generator's batch statistics.
NUM_RECALIBRATION_BATCHES, RECALIBRATION_BATCH_SIZE = 32, 256


@dataclasses.dataclass(frozen=True)
class GAN(Method):
    """A generator of data from noise, and a discriminator.

    In a step the discriminator is updated first, critic_steps times, then the
    generator. Real and generated data pass through the discriminator separately.

    Attributes:
      phases: "disc", once or several times, then "gen".
      generator: (z, label, train) -> data.
      discriminator: (data, label, train) -> logits [B].
      data: name of the field that is modelled, such as "image".
      field: its shape and kind.
      num_latents: Z.
      gan_loss: the losses of both sides.
      gradient_penalty: weight of the penalty between real and generated data.
      r1: weight of the R1 penalty, at real data.
      num_classes: 0 for unconditional networks.
    """

    phases: tuple[Phase, ...]
    generator: nn.Module
    discriminator: nn.Module
    data: str
    field: Field
    num_latents: int
    gan_loss: GANLoss
    gradient_penalty: float
    r1: float
    num_classes: int

    encoder_inputs = ("index",)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The label if the networks are conditional."""
        return ("label",) if self.num_classes else ()

    @property
    def couples_examples(self) -> bool:
        """Whether one of the networks has batch norm."""
        return bool(jax.eval_shape(self.init, jax.random.key(0))[0].state)

    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises both networks.

        Raises:
          ValueError: a network does not support the data's shape, or a penalty is used
            with a discriminator that has batch statistics.
        """
        gen_key, disc_key = jax.random.split(key)
        label = jnp.zeros(1, jnp.int32) if self.num_classes else None
        z, x = jnp.zeros((1, self.num_latents)), jnp.zeros((1, *self.field.shape))
        groups = {
            GEN: self.generator.init(gen_key, z, label),
            DISC: self.discriminator.init(disc_key, x, label),
        }
        statistics = {
            group: variables["batch_stats"]
            for group, variables in groups.items()
            if "batch_stats" in variables
        }
        if DISC in statistics and (self.gradient_penalty or self.r1):
            raise ValueError(
                "gan.gradient_penalty and gan.r1 need the gradient of each example, "
                "which a discriminator with batch statistics does not have: set "
                "model.disc_norm to none, or both weights to 0."
            )
        return Variables({g: v["params"] for g, v in groups.items()}, statistics), ()

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """The discriminator's or the generator's loss.

        Source: Goodfellow et al. 2014, algorithm 1, arXiv:1406.2661.
        """
        z_key, mix_key = jax.random.split(key)
        z = self.encode(variables, batch, z_key)
        real, label = batch[self.data], self._label(batch)
        fake, gen_state = _train(self.generator, GEN, variables, z, label)
        if phase == GEN:
            logits, _ = _train(self.discriminator, DISC, variables, fake, label)
            return Loss(jnp.mean(self.gan_loss.generator(logits)), state=gen_state)
        fake = jax.lax.stop_gradient(fake)
        real_logits, state = _train(self.discriminator, DISC, variables, real, label)
        variables = Variables(variables.params, variables.state | state)
        logits, state = _train(self.discriminator, DISC, variables, fake, label)
        value = jnp.mean(self.gan_loss.discriminator(real_logits, logits))
        metrics = discriminator_metrics(self.gan_loss, real_logits, logits)
        if self.gradient_penalty or self.r1:
            keys = prng.example_keys(mix_key, batch["index"])
            penalty = jnp.mean(self._penalty(variables, real, fake, label, keys))
            metrics["penalty"] = penalty
            value += penalty
        return Loss(value, metrics, state)

    def _label(self, batch: Batch) -> Array | None:
        return batch["label"] if self.num_classes else None

    def _penalty(self, variables, real, fake, label, keys) -> Array:
        """The weighted gradient penalties of the discriminator, [B]."""

        def discriminator(x: Array) -> Array:
            params = {"params": variables.params[DISC]}
            return self.discriminator.apply(params, x, label)

        terms = []
        if self.gradient_penalty:
            penalty = adversarial.gradient_penalty(
                discriminator, real, fake, prng.uniform(keys)
            )
            terms.append(self.gradient_penalty * penalty)
        if self.r1:
            terms.append(self.r1 * adversarial.r1_penalty(discriminator, real))
        return sum(terms)

    def for_inference(self, variables: Variables) -> Variables:
        """Recalibrates the generator's batch statistics on 32 batches of noise.

        The running statistics belong to the trained parameters, not to their average.

        Source: Izmailov et al. 2018, algorithm 1, arXiv:1803.05407.
        """
        if GEN not in variables.state:
            return variables
        # Without momentum the new running statistics are those of the batch.
        network = self.generator.clone(axis_name=None, momentum=0.0)

        def statistics(number: Array) -> PyTree:
            key = jax.random.fold_in(jax.random.key(0), number)
            z = jax.random.normal(key, (RECALIBRATION_BATCH_SIZE, self.num_latents))
            label = None
            if self.num_classes:
                label = jnp.arange(len(z), dtype=jnp.int32) % self.num_classes
            return _train(network, GEN, variables, z, label)[1][GEN]

        batches = jax.lax.map(statistics, jnp.arange(NUM_RECALIBRATION_BATCHES))
        mean = jax.tree.map(lambda x: jnp.mean(x, 0), batches)
        return Variables(variables.params, variables.state | {GEN: mean})

    def encode(self, variables: Variables, batch: Batch, key: Array) -> Array:
        """Draws each example's noise from its index, [B, Z]."""
        keys = prng.example_keys(key, batch["index"])
        return prng.normal(keys, (self.num_latents,))

    def decode(self, variables: Variables, z: Array, batch: Batch) -> Array:
        """Returns the data [B, ...] generated from noise [B, Z]."""
        groups = {"params": variables.params[GEN]}
        if GEN in variables.state:
            groups["batch_stats"] = variables.state[GEN]
        return self.generator.apply(groups, z, self._label(batch))


def _train(network: nn.Module, group: str, variables: Variables, x, label):
    """Applies a network as in training; returns the result and {group: statistics}."""
    groups = {"params": variables.params[group]}
    if group not in variables.state:
        return network.apply(groups, x, label, train=True), {}
    groups["batch_stats"] = variables.state[group]
    y, new = network.apply(groups, x, label, train=True, mutable=["batch_stats"])
    return y, {group: new["batch_stats"]}


def discriminator_metrics(
    gan_loss: GANLoss, real: Array, fake: Array
) -> dict[str, Array]:
    """Returns a discriminator's accuracy, or the distance that a critic estimates.

    Args:
      gan_loss: the loss that is minimised.
      real: logits of real data, any shape.
      fake: logits of generated data.
    """
    if gan_loss.threshold is None:
        return {"distance": jnp.mean(real) - jnp.mean(fake)}
    return {
        "accuracy_real": jnp.mean(real > gan_loss.threshold),
        "accuracy_fake": jnp.mean(fake < gan_loss.threshold),
    }


def defaults() -> ConfigDict:
    """Returns the settings of DCGAN (Radford et al. 2016)."""
    config = common.defaults("gan")
    config.model = config_dict.create(
        name="dcgan",  # or mlp, with hidden and bounded for width, disc_norm and dtype
        width=128,  # channels at half the resolution
        disc_norm="batch",  # or none
        num_classes=0,  # 0: unconditional
        dtype="float32",  # of activations, or bfloat16
    )
    config.gan = config_dict.create(
        loss="non_saturating",  # minimax, hinge, wasserstein, least_squares
        gradient_penalty=0.0,  # weight, at least 0; 10 in Gulrajani et al. 2017
        r1=0.0,  # weight, at least 0
        critic_steps=1,  # updates of the discriminator per step
        num_latents=100,  # Z
        sync_statistics=True,  # compute batch statistics over all devices
    )
    config.optim.update(learning_rate=2e-4, b1=0.5)
    config.optim.disc_learning_rate = 2e-4
    config.sample.update(num_examples=1000, label=-1)  # the class; -1: all in turn
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    source = config.data.source
    common.make_tiny(config)
    if source == "grid25":
        config.data.source = source
    if config.model.name == "mlp":
        config.model.hidden = (8,)
    else:
        config.model.width = 4
    config.gan.num_latents = 4


def make(config: ConfigDict, fields: Fields) -> GAN:
    """Builds a GAN from the groups model, gan and optim."""
    options, num_classes = config.gan, config.model.num_classes
    data, field = data_field(fields)
    if options.loss == "wasserstein" and not (options.gradient_penalty or options.r1):
        raise ValueError(
            "gan.loss wasserstein needs a Lipschitz critic: set gan.gradient_penalty "
            "(10 in the paper) or gan.r1."
        )
    if num_classes == 1:
        raise ValueError(
            "model.num_classes must be 2 or more, or 0 for unconditional networks, "
            "not 1."
        )
    generator, discriminator = make_network(
        GANS,
        config,
        data_shape=field.shape,
        axis_name=parallel.AXIS if options.sync_statistics else None,
    )
    if config.model.get("bounded", True):  # only an mlp has the choice
        check_range(
            field,
            "The generator's tanh",
            "use a generator without it, model.name=mlp with model.bounded=False",
        )
    optim, num = dict(config.optim), options.critic_steps
    disc_learning_rate = optim.pop("disc_learning_rate")
    gen = optimizers.make(**optim)
    optim |= {"learning_rate": disc_learning_rate, "updates_per_step": num}
    disc = optimizers.make(**optim)
    critics = [Phase(DISC, (DISC,), disc, batch_slice=(i, num)) for i in range(num)]
    return GAN(
        phases=(*critics, Phase(GEN, (GEN,), gen, batch_slice=(0, num))),
        generator=generator,
        discriminator=discriminator,
        data=data,
        field=field,
        num_latents=options.num_latents,
        gan_loss=lookup(GAN_LOSSES, options.loss, "gan.loss"),
        gradient_penalty=options.gradient_penalty,
        r1=options.r1,
        num_classes=num_classes,
    )


FAMILY = Family(make, defaults, latent_tasks.TASKS)

"""Generative adversarial networks (Goodfellow et al. 2014), DCGAN among them."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from diffusion_jax import prng
from diffusion_jax.methods import latent_tasks
from diffusion_jax.methods.base import (
    Aux,
    Batch,
    Method,
    PyTree,
    View,
    check_label,
    check_positive,
    check_view,
    choose,
    deal_labels,
)
from diffusion_jax.models import GANS
from diffusion_jax.models.norms import identity
from diffusion_jax.objectives import adversarial
from diffusion_jax.objectives.adversarial import GANLoss
from diffusion_jax.training import optimizers, parallel
from diffusion_jax.training.state import Phase

GEN, DISC = "gen", "disc"  # phases and parameter groups alike
# The batches of noise out of which the averaged generator's statistics are taken.
NUM_SETTLING, SETTLING_SIZE = 32, 256


@dataclasses.dataclass(frozen=True)
class GAN(Method):
    """A generator of pictures from noise, and a discriminator that judges them.

    In a step the discriminator moves first, critic_steps times, then the generator.
    Real and generated pictures go through the discriminator apart from each other.

    Attributes:
      phases: "disc", once or several times, then "gen".
      generator: (z, label, train) -> pictures.
      discriminator: (pictures, label, train) -> logits [B].
      image_shape: (H, W, C).
      num_latents: Z.
      game: what each side minimises.
      gradient_penalty: its weight, between real and generated pictures.
      r1: weight of the penalty at real pictures.
      num_classes: 0 where the networks are not told the class.
      label: of every sample; -1 deals all classes out in turn.
    """

    phases: tuple[Phase, ...]
    generator: nn.Module
    discriminator: nn.Module
    image_shape: tuple[int, int, int]
    num_latents: int
    game: GANLoss
    gradient_penalty: float
    r1: float
    num_classes: int
    label: int

    measures: ClassVar[tuple[str, ...]] = ("samples", "modes")

    @property
    def views(self) -> dict[str, View]:
        """Of the latent space."""
        return latent_tasks.views(self)

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Initialises both networks.

        Raises:
          ValueError: the picture's size does not fit, or a penalty is asked of a
            discriminator with batch statistics.
        """
        gen_key, disc_key = jax.random.split(key)
        label = jnp.zeros(1, jnp.int32) if self.num_classes else None
        z, x = jnp.zeros((1, self.num_latents)), jnp.zeros((1, *self.image_shape))
        variables = {
            GEN: self.generator.init(gen_key, z, label),
            DISC: self.discriminator.init(disc_key, x, label),
        }
        statistics = {
            group: of_group["batch_stats"]
            for group, of_group in variables.items()
            if "batch_stats" in of_group
        }
        if DISC in statistics and (self.gradient_penalty or self.r1):
            raise ValueError(
                "gan.gradient_penalty and gan.r1 are about each picture's own "
                "gradient, which a discriminator with batch statistics does not have: "
                "set model.disc_norm to none, or both weights to 0."
            )
        return {g: v["params"] for g, v in variables.items()}, statistics, ()

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
        """Goodfellow et al. 2014, algorithm 1: the loss of the side to move."""
        z_key, mix_key = jax.random.split(key)
        z = prng.normal(prng.example_keys(z_key, batch["index"]), (self.num_latents,))
        label = batch["label"] if self.num_classes else None
        fake, gen_statistics = _apply(
            self.generator, GEN, params, model_state, z, label
        )
        if phase == GEN:
            logits, _ = self._judge(params, model_state, fake, label)
            value = jnp.mean(self.game.generator(logits))
            return value, Aux({}, model_state | gen_statistics, None)
        fake = jax.lax.stop_gradient(fake)
        real, statistics = self._judge(params, model_state, batch["image"], label)
        model_state = model_state | statistics
        logits, statistics = self._judge(params, model_state, fake, label)
        value = jnp.mean(self.game.discriminator(real, logits))
        metrics = accuracies(self.game, real, logits)
        mix_keys = prng.example_keys(mix_key, batch["index"])
        penalty = self._penalty(params, batch["image"], fake, label, mix_keys)
        if penalty is not None:
            metrics["penalty"] = jnp.mean(penalty)
            value += metrics["penalty"]
        return value, Aux(metrics, model_state | statistics, None)

    def _judge(self, params, model_state, x: Array, label: Array | None):
        return _apply(self.discriminator, DISC, params, model_state, x, label)

    def _penalty(self, params, real, fake, label, keys) -> Array | None:
        """What the discriminator pays for its slope, weighted, [B]."""

        def extractor(x: Array) -> Array:
            return self.discriminator.apply({"params": params[DISC]}, x, label)

        terms = []
        if self.gradient_penalty:
            weight = jax.vmap(jax.random.uniform)(keys)
            terms.append(
                self.gradient_penalty
                * adversarial.gradient_penalty(extractor, real, fake, weight)
            )
        if self.r1:
            terms.append(self.r1 * adversarial.r1_penalty(extractor, real))
        return sum(terms) if terms else None

    def settle(
        self, params: dict[str, PyTree], model_state: dict[str, PyTree]
    ) -> dict[str, PyTree]:
        """Takes the generator's batch statistics anew, from 32 batches of noise.

        The running ones belong to the parameters that were trained, not to their
        average.

        Source: Izmailov et al. 2018, algorithm 1, arXiv:1803.05407.
        """
        if GEN not in model_state:
            return model_state
        # Without momentum the new statistics are those of the batch.
        network = self.generator.clone(average=identity, momentum=0.0)

        def statistics(number: Array) -> PyTree:
            key = jax.random.fold_in(jax.random.key(0), number)
            z = jax.random.normal(key, (SETTLING_SIZE, self.num_latents))
            label = None
            if self.num_classes:
                label = jnp.arange(SETTLING_SIZE, dtype=jnp.int32) % self.num_classes
            _, found = _apply(network, GEN, params, model_state, z, label)
            return found[GEN]

        found = jax.lax.map(statistics, jnp.arange(NUM_SETTLING))
        return model_state | {GEN: jax.tree.map(lambda x: jnp.mean(x, 0), found)}

    def encode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> Array:
        """The noise of sample number batch["index"], [B, Z]."""
        keys = prng.example_keys(key, batch["index"])
        return prng.normal(keys, (self.num_latents,))

    def decode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        z: Array,
        batch: Batch,
    ) -> Array:
        """The pictures [B,H,W,C] of noise [B, Z], of each index's class if any."""
        variables = {"params": params[GEN]}
        if GEN in model_state:
            variables["batch_stats"] = model_state[GEN]
        return self.generator.apply(variables, z, self._label(batch["index"]))

    def _label(self, index: Array) -> Array | None:
        return deal_labels(index, self.label, self.num_classes)

    def sample(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        index: Array,
        key: Array,
    ) -> Batch:
        """Draws image [n,H,W,C], and label [n] where there are classes."""
        batch = {"index": index}
        z = self.encode(params, model_state, batch, key)
        label = self._label(index)
        drawn = {} if label is None else {"label": label}
        return drawn | {"image": self.decode(params, model_state, z, batch)}


def _apply(network: nn.Module, group: str, params, model_state, x, label):
    """Applies a network as in training; returns the result and {group: statistics}."""
    variables = {"params": params[group]}
    if group not in model_state:
        return network.apply(variables, x, label, train=True), {}
    variables["batch_stats"] = model_state[group]
    y, new = network.apply(variables, x, label, train=True, mutable=["batch_stats"])
    return y, {group: new["batch_stats"]}


def accuracies(game: GANLoss, real: Array, fake: Array) -> dict[str, Array]:
    """What to watch of a discriminator: how often it is right, or a critic's distance.

    Args:
      game: that is played.
      real: logits of real pictures, any shape.
      fake: logits of generated ones.
    """
    if game.middle is None:
        return {"distance": jnp.mean(real) - jnp.mean(fake)}
    return {
        "accuracy_real": jnp.mean(real > game.middle),
        "accuracy_fake": jnp.mean(fake < game.middle),
    }


def make_gan(config: ml_collections.ConfigDict) -> GAN:
    """Builds a GAN from the groups model, gan, optim, sample."""
    data, options, model = config.data, config.gan, dict(config.model)
    image_shape = (data.image_size, data.image_size, data.num_channels)
    make_networks = choose(GANS, model.pop("name"), "model.name")
    game = choose(adversarial.GAN_LOSSES, options.loss, "gan.loss")
    average = parallel.mean if options.sync_statistics else identity
    generator, discriminator = make_networks(image_shape, average, **model)
    _check(config)
    optim = dict(config.optim)
    disc_learning_rate = optim.pop("disc_learning_rate")
    num = options.critic_steps
    gen = optimizers.make_plain(**optim)
    optim["learning_rate"] = disc_learning_rate
    disc = optimizers.make_plain(**optim, updates_a_step=num)
    critics = [Phase(DISC, (DISC,), disc, part=(i, num)) for i in range(num)]
    return GAN(
        phases=(*critics, Phase(GEN, (GEN,), gen, part=(0, num))),
        generator=generator,
        discriminator=discriminator,
        image_shape=image_shape,
        num_latents=options.num_latents,
        game=game,
        gradient_penalty=options.gradient_penalty,
        r1=options.r1,
        num_classes=model["num_classes"],
        label=config.sample.label,
    )


def _check(config: ml_collections.ConfigDict) -> None:
    options, num_classes = config.gan, config.model.num_classes
    check_positive(
        gan__critic_steps=options.critic_steps, gan__num_latents=options.num_latents
    )
    for name in ("gradient_penalty", "r1"):
        if options[name] < 0:
            raise ValueError(f"gan.{name} must be at least 0, not {options[name]}.")
    if options.loss == "wasserstein" and not (options.gradient_penalty or options.r1):
        raise ValueError(
            "gan.loss wasserstein supposes a critic of bounded slope: set "
            "gan.gradient_penalty (10 in the paper)."
        )
    if num_classes < 0 or num_classes == 1:
        raise ValueError(
            f"model.num_classes = {num_classes} leaves nothing to choose: give two or "
            "more, or 0 for networks that are told no class."
        )
    check_label(config.sample.label, num_classes)
    view, label = config.sample.view, config.sample.label
    check_view(view, latent_tasks.NAMES)
    latent_tasks.check(view, options.num_latents)
    if view == "arithmetic" and num_classes and label < 0:
        raise ValueError(
            "sample.view arithmetic of a network that is told the class needs one "
            "class for all: set sample.label."
        )

"""pix2pix (Isola et al. 2017): translation learned from pairs of images."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from ml_collections import ConfigDict, config_dict

from diffusion_jax.data.base import COND_IMAGE, Field
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import config as common
from diffusion_jax.methods.base import (
    Batch,
    Family,
    Fields,
    Method,
    NoOptions,
    PyTree,
    Task,
    as_image,
    check_range,
    data_field,
    make_network,
    rows_task,
)
from diffusion_jax.methods.gan import discriminator_metrics
from diffusion_jax.models import IMAGE_TO_IMAGE
from diffusion_jax.models.translation import PatchDiscriminator
from diffusion_jax.objectives.adversarial import GAN_LOSSES, GANLoss
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Loss, Phase, Variables

GEN, DISC = "gen", "disc"  # phases and parameter groups
NUM_SAMPLES = 4  # per condition, in the task translate


@dataclasses.dataclass(frozen=True)
class Pix2Pix(Method):
    """A generator from condition to image, and a PatchGAN discriminator of both.

    In a step the discriminator is updated first, then the generator. The condition is
    resized to the size of the images. The only noise is the generator's dropout, in
    training and in sampling; each example has its own.

    Attributes:
      phases: "disc", then "gen".
      generator: (condition, index) -> image.
      discriminator: condition and image, stacked on the channels -> scores of patches.
      data: name of the images' field.
      field: of the images.
      condition: the field of the conditions; of any size.
      gan_loss: the losses of both sides.
      l1_weight: weight of the distance to the target, lambda in the paper.
    """

    phases: tuple[Phase, ...]
    generator: nn.Module
    discriminator: nn.Module
    data: str
    field: Field
    condition: Field
    gan_loss: GANLoss
    l1_weight: float

    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises both networks.

        Raises:
          ValueError: a network does not support the image size.
        """
        gen_key, disc_key = jax.random.split(key)
        condition = jnp.zeros((1, *self.field.shape[:2], self.condition.shape[-1]))
        pair = jnp.concatenate([condition, jnp.zeros((1, *self.field.shape))], axis=-1)
        params = {
            GEN: self.generator.init(gen_key, condition)["params"],
            DISC: self.discriminator.init(disc_key, pair)["params"],
        }
        return Variables(params, {}), ()

    def generate(self, variables: Variables, batch: Batch, key: Array) -> Array:
        """Generates images [B, H, W, C] of cond_image [B, h, w, c]."""
        return self.generator.apply(
            {"params": variables.params[GEN]},
            self._condition(batch),
            batch["index"],
            rngs={"dropout": key},
        )

    def _condition(self, batch: Batch) -> Array:
        """Returns the conditions in the size of the images, [B, H, W, c]."""
        x = batch[COND_IMAGE]
        shape = (len(x), *self.field.shape[:2], x.shape[-1])
        return jax.image.resize(x, shape, "bilinear")

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

            disc:  1/2 (-log D(x, y) - log(1 - D(x, G(x))))
            gen:   -log D(x, G(x)) + lambda |y - G(x)|,  |.| the mean over values

        with the condition x, the target y, and the losses of GANs by default; both
        phases draw their own dropout.

        Source: Isola et al. 2017, equation 4 and section 3.3, arXiv:1611.07004.
        """
        target, condition = batch[self.data], self._condition(batch)
        generated = self.generate(variables, batch, key)

        def scores(image: Array) -> Array:
            pair = jnp.concatenate([condition, image], axis=-1)
            return self.discriminator.apply({"params": variables.params[DISC]}, pair)

        fake = scores(generated)
        if phase == DISC:
            real = scores(target)
            value = jnp.mean(self.gan_loss.discriminator(real, fake)) / 2
            return Loss(value, discriminator_metrics(self.gan_loss, real, fake))
        adversarial = jnp.mean(self.gan_loss.generator(fake))
        distance = jnp.mean(jnp.abs(target - generated))
        value = adversarial + self.l1_weight * distance
        return Loss(value, {"adversarial": adversarial, "l1": distance})


def make_sample(method: Pix2Pix, options: NoOptions) -> Task:
    """Generates an image [B, H, W, C] for each cond_image."""

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        return {method.data: method.generate(variables, batch, key)}

    return Task(run, (COND_IMAGE,), {method.data: method.field})


def make_translate(method: Pix2Pix, options: NoOptions) -> Task:
    """Generates images for conditions: rows of one, 4 samples, the target."""

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        shown = as_image(batch[COND_IMAGE], method.field.shape)
        keys = jax.random.split(key, NUM_SAMPLES)
        draws = lax.map(lambda k: method.generate(variables, batch, k), keys)
        return [shown, *draws, batch[method.data]]

    inputs = (COND_IMAGE, method.data)
    names = "condition", *["sample"] * NUM_SAMPLES, "real"
    return rows_task(rows, inputs, method.field, names)


def defaults() -> ConfigDict:
    """Returns the settings of Isola et al. 2017 for 256x256 images."""
    config = common.defaults("pix2pix")
    config.data.source = "paired:inverted:digits|digits"  # or any with cond_image
    config.model = config_dict.create(
        name="unet",  # or resnet, with num_blocks and num_downsamplings for num_levels
        base_channels=64,  # at half the resolution
        num_levels=8,  # how often the resolution is halved
        dropout=0.5,  # rate, in [0, 1); the only noise, also of samples
        disc_channels=64,  # after the first layer
        disc_layers=3,  # of stride 2; patches of 16, 34, 70 pixels for 1, 2, 3
        dtype="float32",  # of activations, or bfloat16
    )
    config.pix2pix = config_dict.create(
        loss="non_saturating",  # or minimax, hinge, least_squares
        l1_weight=100.0,  # at least 0
    )
    config.optim.update(learning_rate=2e-4, b1=0.5)
    config.sample.update(task="translate", num_examples=1000)
    config.eval.metric = "paired"
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    config.data.source = "paired:inverted:digits|digits"
    config.model.update(base_channels=4, num_levels=2, disc_channels=4, disc_layers=1)


def make(config: ConfigDict, fields: Fields) -> Pix2Pix:
    """Builds a pix2pix from the groups model, pix2pix and optim."""
    options, model = config.pix2pix, config.model.to_dict()
    discriminator = PatchDiscriminator(
        base_channels=model.pop("disc_channels"),
        num_layers=model.pop("disc_layers"),
        dtype=model.get("dtype", "float32"),
    )
    if COND_IMAGE not in fields:
        raise ValueError(
            "pix2pix needs images with a condition: set data.source to "
            "low_res:FACTOR:SOURCE, grey:SOURCE, masked:SOURCE or "
            "paired:SOURCE|SOURCE."
        )
    data, field = data_field(fields, ("image",))
    # Nothing here limits the critic of wasserstein.
    losses = {name: x for name, x in GAN_LOSSES.items() if name != "wasserstein"}
    remedy = "choose a data.source of images"
    check_range(field, "pix2pix's generator, which ends in tanh,", remedy)
    optimizer = optimizers.make(**config.optim)
    return Pix2Pix(
        phases=(Phase(DISC, (DISC,), optimizer), Phase(GEN, (GEN,), optimizer)),
        generator=make_network(
            IMAGE_TO_IMAGE, ConfigDict({"model": model}), out_channels=field.shape[-1]
        ),
        discriminator=discriminator,
        data=data,
        field=field,
        condition=fields[COND_IMAGE],
        gan_loss=lookup(losses, options.loss, "pix2pix.loss"),
        l1_weight=options.l1_weight,
    )


TASKS = {
    "sample": (NoOptions, make_sample),
    "translate": (NoOptions, make_translate),
}
FAMILY = Family(make, defaults, TASKS)

"""CycleGAN (Zhu et al. 2017): translation between two unpaired domains."""

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
from diffusion_jax.methods.base import (
    Batch,
    Family,
    Fields,
    Method,
    NoOptions,
    PyTree,
    Task,
    check_range,
    make_network,
    rows_task,
)
from diffusion_jax.methods.gan import discriminator_metrics
from diffusion_jax.models import IMAGE_TO_IMAGE
from diffusion_jax.models.translation import PatchDiscriminator
from diffusion_jax.objectives import image_pool
from diffusion_jax.objectives.adversarial import GAN_LOSSES, GANLoss
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Loss, Phase, Variables

# Parameter groups: the generators a -> b and b -> a, the discriminators of a and of b.
AB, BA, DA, DB = "ab", "ba", "da", "db"
GEN, DISC = "gen", "disc"  # phases


@dataclasses.dataclass(frozen=True)
class CycleGAN(Method):
    """Two generators, one in each direction, and a PatchGAN discriminator per domain.

    In a step the generators are updated first. Their images then pass through the image
    pools, and the discriminators are trained on the pools' output and on real images.

    Attributes:
      phases: "gen" trains "ab" and "ba", "disc" trains "da" and "db".
      generator: image -> image, the same network in both directions.
      discriminator: image -> scores of its patches.
      field: the field of the images, the same in both domains.
      batch_size: pairs per step, over all devices.
      gan_loss: the losses of both sides.
      cycle_weight: weight of the cycle-consistency loss, lambda in the paper.
      identity_weight: weight of the identity loss, as a multiple of cycle_weight.
      pool_size: past images kept for each domain.
    """

    phases: tuple[Phase, ...]
    generator: nn.Module
    discriminator: nn.Module
    field: Field
    batch_size: int
    gan_loss: GANLoss
    cycle_weight: float
    identity_weight: float
    pool_size: int

    def init(self, key: Array) -> tuple[Variables, PyTree]:
        """Initialises the four networks, two empty pools and their last outputs.

        The outputs have the size of a batch, so a checkpoint needs the same batch size.

        Raises:
          ValueError: a network does not support the image size.
        """
        keys = jax.random.split(key, 4)
        x = jnp.zeros((1, *self.field.shape))
        networks = {
            AB: self.generator,
            BA: self.generator,
            DA: self.discriminator,
            DB: self.discriminator,
        }
        params = {
            group: network.init(k, x)["params"]
            for (group, network), k in zip(networks.items(), keys, strict=True)
        }
        pool = image_pool.empty(self.pool_size, self.field.shape)
        shown = jnp.zeros((self.batch_size, *self.field.shape))
        aux = {name: {"pool": pool, "shown": shown} for name in "ab"}
        # Copies: buffers shared between the two could not both be donated.
        return Variables(params, {}), jax.tree.map(jnp.copy, aux)

    def translate(self, variables: Variables, group: str, x: Array) -> Array:
        """Translates x [B, H, W, C] with a generator, "ab" or "ba"."""
        return self.generator.apply({"params": variables.params[group]}, x)

    def _scores(self, variables: Variables, group: str, x: Array) -> Array:
        return self.discriminator.apply({"params": variables.params[group]}, x)

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: PyTree,
        batch: Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """The loss of the generators or of the discriminators."""
        if phase == GEN:
            return self._generator_loss(variables, batch, key)
        position = batch["index"] % self.batch_size  # in the global batch
        value, metrics = 0.0, []
        for name, group in (("a", DA), ("b", DB)):
            fake = aux[name]["shown"][position]
            real = self._scores(variables, group, batch[f"image_{name}"])
            fake = self._scores(variables, group, fake)
            value += jnp.mean(self.gan_loss.discriminator(real, fake))
            metrics.append(discriminator_metrics(self.gan_loss, real, fake))
        return Loss(value, jax.tree.map(lambda a, b: (a + b) / 2, *metrics))

    def _generator_loss(self, variables: Variables, batch: Batch, key: Array) -> Loss:
        """The adversarial, cycle and identity terms, in both directions.

            L_GAN(AB, D_B) + L_GAN(BA, D_A) + lambda (|BA(AB(a)) - a| + |AB(BA(b)) - b|
                + w (|AB(b) - b| + |BA(a) - a|)),  |.| the mean over values

        Source: Zhu et al. 2017, equations 1 to 3 and section 5.2, arXiv:1703.10593.
        """

        def translate(group: str, x: Array) -> Array:
            return self.translate(variables, group, x)

        def distance(x: Array, y: Array) -> Array:
            return jnp.mean(jnp.abs(x - y))

        a, b = batch["image_a"], batch["image_b"]
        fake_b, fake_a = translate(AB, a), translate(BA, b)
        scores = (
            self._scores(variables, DB, fake_b),
            self._scores(variables, DA, fake_a),
        )
        adversarial = sum(jnp.mean(self.gan_loss.generator(x)) for x in scores)
        cycle = distance(translate(BA, fake_b), a) + distance(translate(AB, fake_a), b)
        value = adversarial + self.cycle_weight * cycle
        metrics = {"adversarial": adversarial, "cycle": cycle}
        if self.identity_weight:
            identity = distance(translate(AB, b), b) + distance(translate(BA, a), a)
            value += self.cycle_weight * self.identity_weight * identity
            metrics["identity"] = identity
        keys = jax.random.key_data(prng.example_keys(key, batch["index"]))
        observed = {"a": fake_a, "b": fake_b, "keys": keys}
        return Loss(value, metrics, observed=jax.lax.stop_gradient(observed))

    def after_step(
        self, variables: Variables, aux: PyTree, observed: PyTree
    ) -> tuple[dict[str, PyTree], PyTree]:
        """Sends the generated images through the pools."""
        if observed is None:  # after the discriminators' phase
            return variables.state, aux
        keys = jax.vmap(jax.random.split)(jax.random.wrap_key_data(observed["keys"]))
        new = {}
        for number, name in enumerate("ab"):
            pool, images = image_pool.query(
                aux[name]["pool"], observed[name], keys[:, number]
            )
            new[name] = {"pool": pool, "shown": images}
        return variables.state, new


def make_translate(method: CycleGAN, options: NoOptions) -> Task:
    """Translates a to b and back, and b to a and back: "rows" [B, 6, ...]."""

    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        a, b = batch["image_a"], batch["image_b"]
        to_b = method.translate(variables, AB, a)
        to_a = method.translate(variables, BA, b)
        back_a = method.translate(variables, BA, to_b)
        back_b = method.translate(variables, AB, to_a)
        return [a, to_b, back_a, b, to_a, back_b]

    names = "a", "a to b", "and back", "b", "b to a", "and back"
    return rows_task(rows, ("image_a", "image_b"), method.field, names)


def make_a_to_b(method: CycleGAN, options: NoOptions) -> Task:
    """Translates a to b, without any data of b: "rows" [B, 2, ...]."""
    return _one_way(method, AB, "image_a")


def make_b_to_a(method: CycleGAN, options: NoOptions) -> Task:
    """Translates b to a, without any data of a: "rows" [B, 2, ...]."""
    return _one_way(method, BA, "image_b")


def _one_way(method: CycleGAN, group: str, name: str) -> Task:
    def rows(variables: Variables, batch: Batch, key: Array) -> list[Array]:
        return [batch[name], method.translate(variables, group, batch[name])]

    names = "image", "translation"
    return rows_task(rows, (name,), method.field, names)


def defaults() -> ConfigDict:
    """Returns the settings of Zhu et al. 2017 for 256x256 images."""
    config = common.defaults("cyclegan")
    config.data.source_b = "inverted:digits"  # the other domain
    config.data.train_split_b = "train"
    config.model = config_dict.create(
        name="resnet",  # or unet, with num_levels instead of blocks and downsamplings
        base_channels=64,  # at full resolution
        num_blocks=9,  # residual blocks: 9 for 256 pixels, 6 for 128
        num_downsamplings=2,
        disc_channels=64,  # after the first layer
        disc_layers=3,  # of stride 2; patches of 16, 34, 70 pixels for 1, 2, 3
        dtype="float32",  # of activations, or bfloat16
    )
    config.cyclegan = config_dict.create(
        loss="least_squares",  # or another of gan.loss
        cycle_weight=10.0,  # at least 0
        identity_weight=0.5,  # as a multiple of cycle_weight, at least 0
        pool_size=50,  # images per domain; 0: no pool
    )
    config.optim.update(learning_rate=2e-4, b1=0.5)
    config.sample.update(task="translate", num_examples=64, batch_size=64)
    config.eval.update(
        metric="translation",
        split_b="test",  # of the other domain
        paired=False,  # whether the two eval splits hold the same examples in order
        classifier_b="",  # as classifier, of the other domain
        sweep=config_dict.create(),
    )
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    common.make_tiny(config)
    config.data.update(
        source_b="inverted:digits", train_split="train_even", train_split_b="train_odd"
    )
    config.model.update(base_channels=4, num_blocks=1, disc_channels=4, disc_layers=1)
    config.model.num_downsamplings = min(1, config.model.num_downsamplings)
    config.cyclegan.pool_size = 6
    config.eval.update(split_b="test", classifier_b="")


def make(config: ConfigDict, fields: Fields) -> CycleGAN:
    """Builds a CycleGAN from the groups model, cyclegan and optim."""
    options, model = config.cyclegan, config.model.to_dict()
    discriminator = PatchDiscriminator(
        base_channels=model.pop("disc_channels"),
        num_layers=model.pop("disc_layers"),
        dtype=model.get("dtype", "float32"),
    )
    if not {"image_a", "image_b"} <= fields.keys():
        raise ValueError(
            "CycleGAN needs two domains: set data.source_b and data.train_split_b."
        )
    field = fields["image_a"]
    for name in ("image_a", "image_b"):
        remedy = "choose data.source and data.source_b with images"
        check_range(fields[name], "CycleGAN's generator, which ends in tanh,", remedy)
    optimizer = optimizers.make(**config.optim)
    return CycleGAN(
        phases=(Phase(GEN, (AB, BA), optimizer), Phase(DISC, (DA, DB), optimizer)),
        generator=make_network(
            IMAGE_TO_IMAGE, ConfigDict({"model": model}), out_channels=field.shape[-1]
        ),
        discriminator=discriminator,
        field=field,
        batch_size=config.data.batch_size,
        gan_loss=lookup(GAN_LOSSES, options.loss, "cyclegan.loss"),
        cycle_weight=options.cycle_weight,
        identity_weight=options.identity_weight,
        pool_size=options.pool_size,
    )


TASKS = {
    "translate": (NoOptions, make_translate),
    "a_to_b": (NoOptions, make_a_to_b),
    "b_to_a": (NoOptions, make_b_to_a),
}
FAMILY = Family(make, defaults, TASKS)

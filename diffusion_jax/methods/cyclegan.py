"""CycleGAN (Zhu et al. 2017): translation between two unpaired domains."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from diffusion_jax import prng
from diffusion_jax.methods.base import (
    Aux,
    Batch,
    Method,
    PyTree,
    View,
    check_positive,
    check_view,
    choose,
)
from diffusion_jax.methods.gan import accuracies
from diffusion_jax.models import IMAGE_TO_IMAGE
from diffusion_jax.models.translation import PatchDiscriminator
from diffusion_jax.objectives import adversarial, image_pool
from diffusion_jax.objectives.adversarial import GANLoss
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Phase

# Parameter groups: from a to b and back, and who judges pictures of a and of b.
AB, BA, DA, DB = "ab", "ba", "da", "db"
GEN, DISC = "gen", "disc"  # phases
VIEW = "translations"


@dataclasses.dataclass(frozen=True)
class CycleGAN(Method):
    """Two translators, there and back, and a discriminator of patches in each domain.

    In a step the generators move first. The pictures that they made then go through
    the pools, and what comes out is judged beside real ones.

    Attributes:
      phases: "gen" trains "ab" and "ba", "disc" trains "da" and "db".
      translator: picture -> picture, the same network in both directions.
      discriminator: picture -> scores of its patches.
      image_shape: (H, W, C), of both domains.
      batch_size: pairs in a step, over all devices.
      game: what each side minimises.
      cycle_weight: of coming back, lambda in the paper.
      identity_weight: of leaving alone what is there already, as a share of the former.
      pool_size: past pictures remembered in each domain.
    """

    phases: tuple[Phase, ...]
    translator: nn.Module
    discriminator: nn.Module
    image_shape: tuple[int, int, int]
    batch_size: int
    game: GANLoss
    cycle_weight: float
    identity_weight: float
    pool_size: int

    measures: ClassVar[tuple[str, ...]] = ("translation",)

    @property
    def views(self) -> dict[str, View]:
        """Pictures, there, and back again."""
        return {VIEW: self.translations}

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Initialises the four networks, two empty pools, and what they gave last.

        That is as many pictures as a batch has: a checkpoint belongs to its batch size.

        Raises:
          ValueError: the pictures' size does not fit a network.
        """
        keys = jax.random.split(key, 4)
        x = jnp.zeros((1, *self.image_shape))
        networks = (
            (AB, self.translator),
            (BA, self.translator),
            (DA, self.discriminator),
            (DB, self.discriminator),
        )
        params = {
            group: network.init(k, x)["params"]
            for (group, network), k in zip(networks, keys, strict=True)
        }
        pool = image_pool.empty(self.pool_size, self.image_shape)
        shown = jnp.zeros((self.batch_size, *self.image_shape))
        extra = {name: {"pool": pool, "shown": shown} for name in "ab"}
        # Copies: buffers shared between the two could not both be donated.
        return params, {}, jax.tree.map(jnp.copy, extra)

    def translate(self, params: dict[str, PyTree], group: str, x: Array) -> Array:
        """Translates x [B,H,W,C] with the generator of a group, "ab" or "ba"."""
        return self.translator.apply({"params": params[group]}, x)

    def _judge(self, params, group: str, x: Array) -> Array:
        return self.discriminator.apply({"params": params[group]}, x)

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
        """The loss of the generators, or that of the discriminators."""
        if phase == GEN:
            return self._generators(params, batch, key)
        position = batch["index"] % self.batch_size  # in the whole batch
        real = {name: batch[f"image_{name}"] for name in "ab"}
        fake = {name: extra[name]["shown"][position] for name in "ab"}
        value, found = 0.0, []
        for name, group in (("a", DA), ("b", DB)):
            scores = self._judge(params, group, real[name])
            others = self._judge(params, group, fake[name])
            value += jnp.mean(self.game.discriminator(scores, others))
            found.append(accuracies(self.game, scores, others))
        metrics = jax.tree.map(lambda a, b: (a + b) / 2, *found)
        return value, Aux(metrics, {}, None)

    def _generators(self, params, batch: Batch, key: Array) -> tuple[Array, Aux]:
        """The adversarial, the cycle and the identity terms, in both directions.

            L_GAN(AB, D_B) + L_GAN(BA, D_A) + lambda (|BA(AB(a)) - a| + |AB(BA(b)) - b|
                + w (|AB(b) - b| + |BA(a) - a|)),  |.| the mean over values

        Source: Zhu et al. 2017, equations 1 to 3 and section 5.2, arXiv:1703.10593.
        """
        a, b = batch["image_a"], batch["image_b"]
        fake_b, fake_a = self.translate(params, AB, a), self.translate(params, BA, b)
        fooling = jnp.mean(self.game.generator(self._judge(params, DB, fake_b)))
        fooling += jnp.mean(self.game.generator(self._judge(params, DA, fake_a)))
        cycle = jnp.mean(jnp.abs(self.translate(params, BA, fake_b) - a))
        cycle += jnp.mean(jnp.abs(self.translate(params, AB, fake_a) - b))
        value = fooling + self.cycle_weight * cycle
        metrics = {"adversarial": fooling, "cycle": cycle}
        if self.identity_weight:
            same = jnp.mean(jnp.abs(self.translate(params, AB, b) - b))
            same += jnp.mean(jnp.abs(self.translate(params, BA, a) - a))
            value += self.cycle_weight * self.identity_weight * same
            metrics["identity"] = same
        keys = jax.random.key_data(prng.example_keys(key, batch["index"]))
        made = {"a": fake_a, "b": fake_b, "keys": keys}
        return value, Aux(metrics, {}, jax.lax.stop_gradient(made))

    def remember(self, extra: PyTree, observed: PyTree) -> PyTree:
        """Sends what the generators made through the pools."""
        if observed is None:  # the discriminators make nothing
            return extra
        keys = jax.random.wrap_key_data(observed["keys"])
        pairs = jax.vmap(jax.random.split)(keys)
        new = {}
        for number, name in enumerate("ab"):
            pool, shown = image_pool.query(
                extra[name]["pool"], observed[name], pairs[:, number]
            )
            new[name] = {"pool": pool, "shown": shown}
        return new

    def evaluate(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> dict[str, Array]:
        """Of each pair: the translations "to_a" and "to_b" f32[B,H,W,C], and "cycle_a"
        and "cycle_b" f32[B], the mean |x - back again| in units of [-1, 1]."""
        a, b = batch["image_a"], batch["image_b"]
        to_b, to_a = self.translate(params, AB, a), self.translate(params, BA, b)
        return {
            "to_a": to_a,
            "to_b": to_b,
            "cycle_a": mean_distance(self.translate(params, BA, to_b), a),
            "cycle_b": mean_distance(self.translate(params, AB, to_a), b),
        }

    def translations(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> Array:
        """a, in b, and back; b, in a, and back: [B, 6, H, W, C]."""
        a, b = batch["image_a"], batch["image_b"]
        to_b, to_a = self.translate(params, AB, a), self.translate(params, BA, b)
        back_a = self.translate(params, BA, to_b)
        back_b = self.translate(params, AB, to_a)
        return jnp.stack([a, to_b, back_a, b, to_a, back_b], axis=1)


def mean_distance(x: Array, y: Array) -> Array:
    """Mean absolute difference of each picture: [B, ...] twice -> [B]."""
    return jnp.mean(jnp.abs(x - y), axis=tuple(range(1, x.ndim)))


def make_cyclegan(config: ml_collections.ConfigDict) -> CycleGAN:
    """Builds a CycleGAN from the groups model, cyclegan, optim, sample."""
    data, options, model = config.data, config.cyclegan, dict(config.model)
    translator_class = choose(IMAGE_TO_IMAGE, model.pop("name"), "model.name")
    discriminator = PatchDiscriminator(
        base_channels=model.pop("disc_channels"), num_layers=model.pop("disc_layers")
    )
    for name in ("cycle_weight", "identity_weight", "pool_size"):
        if options[name] < 0:
            raise ValueError(f"cyclegan.{name} must be at least 0.")
    check_positive(data__batch_size=data.batch_size)
    check_view(config.sample.view, [VIEW])
    return CycleGAN(
        phases=(
            Phase(GEN, (AB, BA), optimizers.make_plain(**config.optim)),
            Phase(DISC, (DA, DB), optimizers.make_plain(**config.optim)),
        ),
        translator=translator_class(out_channels=data.num_channels, **model),
        discriminator=discriminator,
        image_shape=(data.image_size, data.image_size, data.num_channels),
        batch_size=data.batch_size,
        game=choose(adversarial.GAN_LOSSES, options.loss, "cyclegan.loss"),
        cycle_weight=options.cycle_weight,
        identity_weight=options.identity_weight,
        pool_size=options.pool_size,
    )

"""The autoencoder, and the variational autoencoder (Kingma and Welling 2014)."""

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
    check_positive,
    check_view,
    choose,
)
from diffusion_jax.models import AUTOENCODERS
from diffusion_jax.objectives import variational as bound
from diffusion_jax.objectives.variational import Likelihood
from diffusion_jax.training import optimizers
from diffusion_jax.training.state import Phase

GROUP = "net"
MOMENTUM = 0.9  # of what an autoencoder knows of its codes, a batch
MIN_VARIANCE = 1e-6  # of a code that says nothing


@dataclasses.dataclass(frozen=True)
class Autoencoder(Method):
    """An encoder and a decoder, trained to give back what they were shown.

    The code of a picture is its latent. Training keeps the codes' mean and spread, so
    that latents are in standard units, and a sample is what the decoder makes of a
    normal with the codes' own moments: an autoencoder promises no more.

    Attributes:
      phases: one, which trains the group "net".
      network: with encode and decode, a row of models.AUTOENCODERS.
      image_shape: (H, W, C).
      num_latents: Z.
      likelihood: what the decoder's output says of a picture.
      noise_scale: standard deviation of a Gaussian likelihood, in units of [-1, 1].
    """

    phases: tuple[Phase, ...]
    network: nn.Module
    image_shape: tuple[int, int, int]
    num_latents: int
    likelihood: Likelihood
    noise_scale: float

    measures: ClassVar[tuple[str, ...]] = ("reconstruction", "samples")

    @property
    def views(self) -> dict[str, View]:
        """Reconstructions, and the latent space."""
        return {"reconstruction": self.reconstruction} | latent_tasks.views(self)

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Initialises the network, and the codes' moments as those of a normal."""
        params = _init(self, key)
        ones = jnp.ones(self.num_latents)
        return params, {GROUP: {"mean": 0 * ones, "square": ones}}, ()

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
        """Minus the log-likelihood of a picture, given its own code."""
        target = self.likelihood.target(batch["image"])
        code, _ = _encode(self, params, batch["image"])
        nats = -self._log_likelihood(params, target, code)
        moments = {"mean": jnp.mean(code, 0), "square": jnp.mean(jnp.square(code), 0)}
        moments = jax.tree.map(
            lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new,
            model_state[GROUP],
            jax.lax.stop_gradient(moments),
        )
        return jnp.mean(nats), Aux({}, {GROUP: moments}, None)

    def _log_likelihood(self, params, target: Array, z: Array) -> Array:
        output = _decode(self, params, z)
        return self.likelihood.log_likelihood(target, output, self.noise_scale)

    def evaluate(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> dict[str, Array]:
        """Of each picture: "squared_error", a mean over its values in units of [0, 1],
        f32[B], and "code", f32[B, Z]."""
        code, _ = _encode(self, params, batch["image"])
        return {
            "squared_error": _squared_error(self, params, batch["image"], code),
            "code": code,
        }

    def encode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> Array:
        """The code of each picture in standard units, [B, Z]."""
        code, _ = _encode(self, params, batch["image"])
        mean, scale = _standard(model_state[GROUP])
        return (code - mean) / scale

    def decode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        z: Array,
        batch: Batch,
    ) -> Array:
        """The expected pictures [B,H,W,C] of codes in standard units."""
        mean, scale = _standard(model_state[GROUP])
        return self.likelihood.picture(_decode(self, params, z * scale + mean))

    def reconstruction(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> Array:
        """Each picture and what its code gives back: [B, 2, H, W, C]."""
        z = self.encode(params, model_state, batch, key)
        back = self.decode(params, model_state, z, batch)
        return jnp.stack([batch["image"], back], axis=1)

    def sample(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        index: Array,
        key: Array,
    ) -> Batch:
        """The picture of a normal latent: image [n,H,W,C] in [-1, 1]."""
        z = prng.normal(prng.example_keys(key, index), (self.num_latents,))
        return {"image": self.decode(params, model_state, z, {"index": index})}


@dataclasses.dataclass(frozen=True)
class VAE(Autoencoder):
    """An autoencoder whose code is a distribution, held near a standard normal.

    Attributes:
      beta: weight of the divergence; 1 is the bound (Higgins et al. 2017).
      binarize: draw each pixel as a coin, afresh in every step and measure.
      num_importance: draws of the importance-weighted bound.
    """

    beta: float
    binarize: bool
    num_importance: int

    measures: ClassVar[tuple[str, ...]] = ("elbo", "reconstruction", "samples")

    def init(self, key: Array) -> tuple[dict[str, PyTree], dict[str, PyTree], PyTree]:
        """Initialises the network."""
        return _init(self, key), {}, ()

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
        """Minus the bound: -log p(x|z) + beta KL(q(z|x) || p(z)), with one draw of z.

        Source: Kingma and Welling 2014, equation 10, arXiv:1312.6114.
        """
        keys = prng.example_keys(key, batch["index"])
        image = self._shown(batch["image"], prng.fold_in(keys, 0))
        mean, logvar = _encode(self, params, image)
        eps = prng.normal(prng.fold_in(keys, 1), (self.num_latents,))
        z = bound.reparameterize(mean, logvar, eps)
        nats = -self._log_likelihood(params, self.likelihood.target(image), z)
        by_latent = bound.kl_to_standard_normal(mean, logvar)
        kl = jnp.sum(by_latent, axis=1)
        metrics = {"reconstruction": jnp.mean(nats), "kl": jnp.mean(kl)}
        return jnp.mean(nats + self.beta * kl), Aux(metrics, model_state, None)

    def _shown(self, image: Array, keys: Array) -> Array:
        """The picture, or one drawn from it pixel by pixel, of -1 and 1."""
        if not self.binarize:
            return image
        u = jax.vmap(lambda key: jax.random.uniform(key, self.image_shape))(keys)
        return jnp.where(u < (image + 1) / 2, 1.0, -1.0)

    def evaluate(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> dict[str, Array]:
        """Of each picture, f32[B], nats: "reconstruction" and "kl", of one draw of z,
        and "importance_bound"; and as for an autoencoder "squared_error" and "code",
        the posterior's mean."""
        keys = prng.example_keys(key, batch["index"])
        image = self._shown(batch["image"], prng.fold_in(keys, 0))
        target = self.likelihood.target(image)
        mean, logvar = _encode(self, params, image)

        def draw(number: Array) -> tuple[Array, Array]:
            eps = prng.normal(prng.fold_in(keys, number), (self.num_latents,))
            z = bound.reparameterize(mean, logvar, eps)
            log_likelihood = self._log_likelihood(params, target, z)
            weight = bound.log_importance_weight(log_likelihood, z, mean, logvar)
            return log_likelihood, weight

        numbers = jnp.arange(1, self.num_importance + 1)
        log_likelihoods, log_weights = jax.lax.map(draw, numbers)
        by_latent = bound.kl_to_standard_normal(mean, logvar)
        return {
            "reconstruction": -log_likelihoods[0],
            "kl": jnp.sum(by_latent, axis=1),
            "importance_bound": bound.importance_bound(log_weights),
            "squared_error": _squared_error(self, params, batch["image"], mean),
            "code": mean,
        }

    def encode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        batch: Batch,
        key: Array,
    ) -> Array:
        """The mean of the posterior of each picture, [B, Z]."""
        return _encode(self, params, batch["image"])[0]

    def decode(
        self,
        params: dict[str, PyTree],
        model_state: dict[str, PyTree],
        z: Array,
        batch: Batch,
    ) -> Array:
        """The expected pictures [B,H,W,C] of latents."""
        return self.likelihood.picture(_decode(self, params, z))


def _init(method: Autoencoder, key: Array) -> dict[str, PyTree]:
    x = jnp.zeros((1, *method.image_shape))
    return {GROUP: method.network.init(key, x)["params"]}


def _encode(method: Autoencoder, params, image: Array) -> tuple[Array, Array | None]:
    encode = type(method.network).encode
    return method.network.apply({"params": params[GROUP]}, image, method=encode)


def _decode(method: Autoencoder, params, z: Array) -> Array:
    decode = type(method.network).decode
    return method.network.apply({"params": params[GROUP]}, z, method=decode)


def _squared_error(method: Autoencoder, params, image: Array, code: Array) -> Array:
    back = method.likelihood.picture(_decode(method, params, code))
    axes = tuple(range(1, image.ndim))
    return jnp.mean(jnp.square((back - image) / 2), axis=axes)


def _standard(moments: PyTree) -> tuple[Array, Array]:
    """Mean and standard deviation of the codes, [1, Z] each."""
    mean = moments["mean"][None]
    variance = moments["square"][None] - jnp.square(mean)
    return mean, jnp.sqrt(jnp.maximum(variance, MIN_VARIANCE))


def make_autoencoder(config: ml_collections.ConfigDict) -> Autoencoder:
    """Builds an autoencoder from the groups model, autoencoder, optim, sample."""
    return Autoencoder(**_parts(config, config.autoencoder, variational=False))


def make_vae(config: ml_collections.ConfigDict) -> VAE:
    """Builds a variational autoencoder from the groups model, vae, optim, sample."""
    options, num_importance = config.vae, config.eval.num_importance
    if options.beta < 0:
        raise ValueError(f"vae.beta must be at least 0, not {options.beta}.")
    check_positive(eval__num_importance=num_importance)
    if options.binarize and options.likelihood != "bernoulli":
        raise ValueError(
            f"vae.binarize draws coins, and vae.likelihood {options.likelihood!r} is "
            "not about coins: choose bernoulli, or binarize=False."
        )
    return VAE(
        **_parts(config, options, variational=True),
        beta=options.beta,
        binarize=options.binarize,
        num_importance=num_importance,
    )


def _parts(config, options, variational: bool) -> dict:
    """What both have, by the names of Autoencoder's attributes."""
    data, model = config.data, dict(config.model)
    image_shape = (data.image_size, data.image_size, data.num_channels)
    network_class = choose(AUTOENCODERS, model.pop("name"), "model.name")
    likelihood = choose(
        bound.LIKELIHOODS, options.likelihood, f"{config.method}.likelihood"
    )
    if not options.noise_scale > 0:
        raise ValueError(
            f"{config.method}.noise_scale must be above 0, not {options.noise_scale}."
        )
    check_positive(model__num_latents=model["num_latents"])
    network = network_class(image_shape=image_shape, variational=variational, **model)
    check_view(config.sample.view, [*latent_tasks.NAMES, "reconstruction"])
    latent_tasks.check(config.sample.view, model["num_latents"])
    return {
        "phases": (Phase("net", (GROUP,), optimizers.make_plain(**config.optim)),),
        "network": network,
        "image_shape": image_shape,
        "num_latents": model["num_latents"],
        "likelihood": likelihood,
        "noise_scale": options.noise_scale,
    }

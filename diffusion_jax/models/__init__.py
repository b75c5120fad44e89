"""Networks: Flax Linen modules, in tables by model.name."""

from diffusion_jax.models.classifier import ConvClassifier
from diffusion_jax.models.contrastive import CLIP
from diffusion_jax.models.convolutional import ConvAutoencoder
from diffusion_jax.models.dcgan import dcgan
from diffusion_jax.models.dense import DenseAutoencoder, mlp_gan
from diffusion_jax.models.discrete import GumbelAutoencoder, VQAutoencoder
from diffusion_jax.models.recurrent import RecurrentLM
from diffusion_jax.models.seq2seq import RecurrentSeq2Seq
from diffusion_jax.models.transformer import GPT, Transformer
from diffusion_jax.models.translation import ResNetGenerator, UNetGenerator
from diffusion_jax.models.unet import UNet

MODELS = {"unet": UNet}  # denoisers of diffusion models
AUTOENCODERS = {"dense": DenseAutoencoder, "conv": ConvAutoencoder}
DISCRETE_AUTOENCODERS = {"gumbel": GumbelAutoencoder, "vq": VQAutoencoder}
GANS = {"mlp": mlp_gan, "dcgan": dcgan}  # -> (generator, discriminator)
IMAGE_TO_IMAGE = {"resnet": ResNetGenerator, "unet": UNetGenerator}
CLASSIFIERS = {"conv": ConvClassifier}
CONTRASTIVE = {"clip": CLIP}
LANGUAGE_MODELS = {"recurrent": RecurrentLM, "gpt": GPT}
SEQ2SEQ = {"recurrent": RecurrentSeq2Seq, "transformer": Transformer}

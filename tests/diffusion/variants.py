"""Each sampler of the table with its options, and denoisers from plain functions."""

from diffusion_jax.diffusion import langevin, samplers
from diffusion_jax.diffusion.denoiser import Denoised

VARIANTS = {
    "ancestral fixedsmall": samplers.ancestral("fixedsmall"),
    "ancestral fixedlarge": samplers.ancestral("fixedlarge"),
    "ddim": samplers.ddim(),
    "ddim half": samplers.ddim(0.5),
    "euler": samplers.euler(),
    "euler churned": samplers.euler(0.05),
    "heun": samplers.heun(),
    "heun churned": samplers.heun(0.3),
    "dpmpp_1": samplers.multistep(1),
    "dpmpp_2m": samplers.multistep(2),
    "dpmpp_3m": samplers.multistep(3),
    "dpmpp_2s": samplers.singlestep(2),
    "dpmpp_3s": samplers.singlestep(3),
    "predictor_corrector": langevin.predictor_corrector(),
    "annealed_langevin": langevin.annealed(3, snr=0.5),
}


def denoiser(x_0):
    """The denoiser that predicts x_0(x_t, t); a sampler's step may call it too."""
    return lambda x_t, t, self_cond=None: Denoised(x_0(x_t, t))

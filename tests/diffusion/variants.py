"""Each sampler of the table, with the choices that it knows."""

from diffusion_jax.diffusion import langevin, samplers

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

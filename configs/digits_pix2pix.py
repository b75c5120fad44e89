r"""pix2pix from inverted digits to digits, the pairs that CycleGAN has to find.

    python -m diffusion_jax.main --config=configs/digits_classifier.py
    python -m diffusion_jax.main --config=configs/digits_pix2pix.py

Isola et al. 2017, arXiv:1611.07004, scaled down.
Result: of 359 held-out digits, digits_classifier gets 98.1, 97.2 and 97.8 % right
(seeds 0, 1, 2; of the real ones 98.1 %); absolute error 0.036, 0.035, 0.034. CycleGAN,
without the pairs: 97.8, 96.7, 97.5 %. Expect a warning that the discriminator has won.
Other data, such as --config.data.source=low_res:2:digits: see docs/families.md.
Time: one minute of CPU time.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import pix2pix
from diffusion_jax.methods.config import decay_over_second_half, select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = pix2pix.defaults()
    config.name = "digits_pix2pix"
    config.data.batch_size = 32
    config.model.update(base_channels=32, num_levels=3, disc_channels=32, disc_layers=1)
    config.optim.ema_decay = 0.99
    config.train.update(num_steps=2000, log_every=100, evaluate_every=500)
    decay_over_second_half(config)
    config.eval.classifier = "runs/digits_classifier"
    return select(config, variant, pix2pix.tiny)

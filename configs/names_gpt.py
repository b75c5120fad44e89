"""GPT language model of names, one a line, by characters: makemore's Transformer.

    bash launch/local.sh configs/names_gpt.py --config.data.source=lines:PATH

PATH is a UTF-8 file, such as the 32,033 names of makemore (Karpathy 2022), of which 3 %
are held out, about the 1,000 of makemore. A name that occurs several times lies in one
split; in makemore's random split, 15 % of the test names are also trained on. PATH may
be a folder with the files train.txt and test.txt of another split.
Reference: 1.92 nats per character, the end of a name included (makemore's README).
Result: 1.896 on makemore's split. After 6000 steps with dropout 0.15 and learning rate
0.002: 1.945 there, and 1.992 on our split (a 5-gram: 2.061); on that one 2.042 with
makemore's AdamW (constant 5e-4, weight decay 0.01, learned positions, one name an
example, 10,000 steps).
Time: seven minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from diffusion_jax.methods import language_model
from diffusion_jax.methods.config import select


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config; the variant "tiny" is a smoke test that takes seconds."""
    config = language_model.defaults("gpt")
    config.name = "names_gpt"
    config.data.update(source="lines:PATH", held_out=0.0312)
    config.data.update(packed=True, context=64, batch_size=16)
    config.model.update(width=64, positions="rotary", dropout=0.1)
    config.optim.update(learning_rate=0.003, b2=0.99, weight_decay=0.1)
    config.optim.update(decay="cosine", decay_to=0.1)
    config.train.update(num_steps=11000, save_every=5500, sample_every=5500)
    config.optim.warmup_steps = config.train.get_oneway_ref("num_steps") // 30
    config.optim.decay_end = config.train.get_oneway_ref("num_steps")
    config.sample.update(num_examples=20, batch_size=20, num_tokens=17)
    return select(config, variant, language_model.tiny)

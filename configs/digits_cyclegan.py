r"""CycleGAN between digits and inverted digits, for a CPU.

    python -m diffusion_jax.main --config=configs/digits_classifier.py
    python -m diffusion_jax.main --config=configs/digits_classifier.py \
        --config.data.source=inverted:digits \
        --workdir=runs/inverted_digits_classifier
    python -m diffusion_jax.main --config=configs/digits_cyclegan.py

Zhu et al. 2017, arXiv:1703.10593, in small. No identity term, which would forbid to
invert, and half the weight of the cycle: at 10 and more it may close on the identity
before the discriminators object.
Expected: see the README.
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(name="digits_cyclegan", seed=0, method="cyclegan")
    config.data = config_dict.create(
        source="digits",
        data_dir=config_dict.placeholder(str),
        train_split="train_even",
        image_size=8,
        num_channels=1,
        batch_size=32,
        flip=False,
        source_b="inverted:digits",
        train_split_b="train_odd",
    )
    config.model = config_dict.create(
        name="resnet",
        base_channels=32,
        num_blocks=1,
        num_downsamplings=0,
        disc_channels=32,
        disc_layers=1,
    )
    config.cyclegan = config_dict.create(
        loss="least_squares",
        cycle_weight=5.0,
        identity_weight=0.0,
        pool_size=50,
    )
    config.train = config_dict.create(
        num_steps=1000,
        log_every=100,
        save_every=500,
        keep=3,
        evaluate_every=500,
        sample_every=1000,
    )
    num_steps = config.train.get_oneway_ref("num_steps")
    config.optim = config_dict.create(
        learning_rate=0.0002,
        decay_start=num_steps // 2,
        decay_end=num_steps,
        b1=0.5,
        b2=0.999,
        eps=1e-08,
        ema_decay=0.99,
    )
    config.sample = config_dict.create(
        checkpoint="last",
        num_images=64,
        batch_size=64,
        view="translations",
        film=False,
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="translation",
        split="test",
        split_b="test",
        paired=True,
        classifier="runs/digits_classifier",
        classifier_b="runs/inverted_digits_classifier",
        batch_size=256,
        sweep=config_dict.create(),
        seed=0,
    )
    if variant == "tiny":
        config.name += "_tiny"
        config.data.update(source="digits", image_size=8, num_channels=1, batch_size=8)
        config.data.source_b = "inverted:digits"
        config.data.train_split, config.data.train_split_b = "train_even", "train_odd"
        config.eval.update(split="test", split_b="test", batch_size=64)
        config.eval.update(classifier="", classifier_b="")
        config.model.update(base_channels=4, num_blocks=1, disc_channels=4)
        config.cyclegan.pool_size = 6
        config.train.update(num_steps=4, log_every=2, save_every=2, sample_every=4)
        config.train.evaluate_every = 0
        config.sample.update(num_images=16, batch_size=16)
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

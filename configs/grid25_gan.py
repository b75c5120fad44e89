"""A GAN of points in the plane: 25 narrow normals on a grid.

    python -m diffusion_jax.main --config=configs/grid25_gan.py

Wasserstein with gradient penalty: Gulrajani et al. 2017, arXiv:1704.00028. Modes are
counted as in Lin et al. 2018 (PacGAN), arXiv:1712.04086.
Expected: see the README.
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(name="grid25_gan", seed=0, method="gan")
    config.data = config_dict.create(
        source="grid25",
        data_dir=config_dict.placeholder(str),
        train_split="train",
        image_size=1,
        num_channels=2,
        batch_size=256,
        flip=False,
    )
    config.model = config_dict.create(
        name="mlp",
        hidden=(128, 128, 128),
        bounded=False,
        num_classes=0,
    )
    config.gan = config_dict.create(
        loss="wasserstein",
        gradient_penalty=0.1,
        r1=0.0,
        critic_steps=1,
        num_latents=100,
        sync_statistics=True,
    )
    config.train = config_dict.create(
        num_steps=20000,
        log_every=500,
        save_every=5000,
        keep=3,
        evaluate_every=5000,
        sample_every=20000,
    )
    num_steps = config.train.get_oneway_ref("num_steps")
    config.optim = config_dict.create(
        learning_rate=0.001,
        disc_learning_rate=0.001,
        decay_start=num_steps // 2,
        decay_end=num_steps,
        b1=0.0,
        b2=0.9,
        eps=1e-08,
        ema_decay=0.99,
    )
    config.sample = config_dict.create(
        checkpoint="last",
        num_images=10000,
        batch_size=10000,
        view="samples",
        label=-1,
        concepts=((0, 1, 2), (3, 4, 5), (6, 7, 8)),
        film=False,
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="modes",
        split="test",
        classifier="",
        batch_size=256,
        sweep=config_dict.create(seed=()),
        seed=0,
    )
    if variant == "tiny":
        config.name += "_tiny"
        config.data.batch_size = 8
        config.model.hidden = (8,)
        config.gan.num_latents = 4
        config.train.update(num_steps=4, log_every=2, save_every=2, sample_every=4)
        config.train.evaluate_every = 0
        config.sample.update(num_images=16, batch_size=16)
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

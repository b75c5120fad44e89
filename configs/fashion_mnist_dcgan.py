"""DCGAN of Fashion-MNIST, 28x28, for a CPU.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py
    python -m diffusion_jax.main --config=configs/fashion_mnist_dcgan.py

Radford et al. 2016, arXiv:1511.06434, in small.
Data: apt-get install dataset-fashion-mnist (70,000 pictures, under /usr/share), or any
folder of MNIST-format files: --config.data.source=idx:PATH.
Expected: see the README.
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(name="fashion_mnist_dcgan", seed=0, method="gan")
    config.data = config_dict.create(
        source="idx:/usr/share/datasets/fashion-mnist",
        data_dir=config_dict.placeholder(str),
        train_split="train",
        image_size=28,
        num_channels=1,
        batch_size=128,
        flip=False,
    )
    config.model = config_dict.create(
        name="dcgan",
        width=32,
        disc_norm="batch",
        num_classes=0,
    )
    config.gan = config_dict.create(
        loss="non_saturating",
        gradient_penalty=0.0,
        r1=0.0,
        critic_steps=1,
        num_latents=100,
        sync_statistics=True,
    )
    config.train = config_dict.create(
        num_steps=8000,
        log_every=500,
        save_every=4000,
        keep=3,
        evaluate_every=4000,
        sample_every=8000,
    )
    config.optim = config_dict.create(
        learning_rate=0.0002,
        disc_learning_rate=0.0002,
        decay_start=config_dict.placeholder(int),
        decay_end=config_dict.placeholder(int),
        b1=0.5,
        b2=0.999,
        eps=1e-08,
        ema_decay=0.999,
    )
    config.sample = config_dict.create(
        checkpoint="last",
        num_images=10000,
        batch_size=500,
        view="samples",
        label=-1,
        concepts=((0, 1, 2), (3, 4, 5), (6, 7, 8)),
        film=False,
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="samples",
        split="test",
        classifier="runs/fashion_mnist_classifier",
        batch_size=256,
        sweep=config_dict.create(seed=()),
        seed=0,
    )
    if variant == "tiny":
        config.name += "_tiny"
        config.data.update(source="digits", image_size=8, num_channels=1, batch_size=8)
        config.data.train_split, config.eval.split = "train", "test"
        config.model.width = 4
        config.gan.num_latents = 4
        config.train.update(num_steps=4, log_every=2, save_every=2, sample_every=4)
        config.train.evaluate_every = 0
        config.sample.update(num_images=16, batch_size=16)
        config.eval.classifier = ""
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

"""A convolutional autoencoder of Fashion-MNIST, two numbers a picture.

    python -m diffusion_jax.main --config=configs/fashion_mnist_autoencoder.py

Foster 2019, Generative Deep Learning, chapter 3: its network, rate and batch.
Data: apt-get install dataset-fashion-mnist (70,000 pictures, under /usr/share), or any
folder of MNIST-format files: --config.data.source=idx:PATH.
Expected: see the README.
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(
        name="fashion_mnist_autoencoder", seed=0, method="autoencoder"
    )
    config.data = config_dict.create(
        source="idx:/usr/share/datasets/fashion-mnist",
        data_dir=config_dict.placeholder(str),
        train_split="train",
        image_size=28,
        num_channels=1,
        batch_size=32,
        flip=False,
    )
    config.model = config_dict.create(
        name="conv",
        channels=(32, 64, 64, 64),
        strides=(1, 2, 2, 1),
        num_latents=2,
    )
    config.autoencoder = config_dict.create(
        likelihood="gaussian",
        noise_scale=1.0,
    )
    config.train = config_dict.create(
        num_steps=7500,
        log_every=500,
        save_every=1500,
        keep=3,
        evaluate_every=3750,
        sample_every=7500,
    )
    num_steps = config.train.get_oneway_ref("num_steps")
    config.optim = config_dict.create(
        learning_rate=0.0005,
        decay_start=num_steps // 2,
        decay_end=num_steps,
        b1=0.9,
        b2=0.999,
        eps=1e-08,
        ema_decay=0.0,
    )
    config.sample = config_dict.create(
        checkpoint="last",
        num_images=100,
        batch_size=100,
        view="reconstruction",
        concepts=((0, 1, 2), (3, 4, 5), (6, 7, 8)),
        film=False,
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="reconstruction",
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
        config.model.update(channels=(4, 4), strides=(1, 2))
        config.train.update(num_steps=4, log_every=2, save_every=2, sample_every=4)
        config.train.evaluate_every = 0
        config.sample.update(num_images=16, batch_size=16)
        config.eval.update(batch_size=64, classifier="")
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

"""A classifier of Fashion-MNIST, whose features measure samples.

    python -m diffusion_jax.main --config=configs/fashion_mnist_classifier.py

Its folder is what eval.classifier of other configs names.
Data: apt-get install dataset-fashion-mnist (70,000 pictures, under /usr/share), or any
folder of MNIST-format files: --config.data.source=idx:PATH.
Expected: see the README.
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(
        name="fashion_mnist_classifier", seed=0, method="classifier"
    )
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
        name="conv",
        channels=(32, 64, 64),
        num_features=64,
        num_classes=10,
    )
    config.train = config_dict.create(
        num_steps=3000,
        log_every=500,
        save_every=3000,
        keep=3,
        evaluate_every=3000,
        sample_every=0,
    )
    num_steps = config.train.get_oneway_ref("num_steps")
    config.optim = config_dict.create(
        learning_rate=0.001,
        decay_start=num_steps // 2,
        decay_end=num_steps,
        b1=0.9,
        b2=0.999,
        eps=1e-08,
        ema_decay=0.0,
    )
    config.sample = config_dict.create(
        checkpoint="last",
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="accuracy",
        split="test",
        batch_size=256,
        sweep=config_dict.create(),
        seed=0,
    )
    if variant == "tiny":
        config.name += "_tiny"
        config.data.update(source="digits", image_size=8, num_channels=1, batch_size=8)
        config.data.train_split, config.eval.split = "train", "test"
        config.model.update(channels=(8,), num_features=8)
        config.train.update(num_steps=4, log_every=2, save_every=2, evaluate_every=0)
        config.eval.batch_size = 64
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

"""A variational autoencoder of MNIST, 784-500-20-500-784.

    python -m diffusion_jax.main --config=configs/mnist_vae.py

Kingma and Welling 2014, arXiv:1312.6114. Pixels are drawn as coins, afresh in each
step and measure; 40 epochs.
Data: tfds build mnist --file_format=array_record
(needs TensorFlow, see the README).
Expected: not measured (no accelerator was at hand).
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(name="mnist_vae", seed=0, method="vae")
    config.data = config_dict.create(
        source="tfds:mnist",
        data_dir=config_dict.placeholder(str),
        train_split="train",
        image_size=28,
        num_channels=1,
        batch_size=128,
        flip=False,
    )
    config.model = config_dict.create(
        name="dense",
        hidden=(500,),
        num_latents=20,
    )
    config.vae = config_dict.create(
        likelihood="bernoulli",
        noise_scale=1.0,
        beta=1.0,
        binarize=True,
    )
    config.train = config_dict.create(
        num_steps=18760,
        log_every=500,
        save_every=4690,
        keep=3,
        evaluate_every=9380,
        sample_every=18760,
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
        num_images=100,
        batch_size=100,
        view="samples",
        concepts=((0, 1, 2), (3, 4, 5), (6, 7, 8)),
        film=False,
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="elbo",
        split="test",
        num_importance=100,
        classifier="",
        batch_size=256,
        sweep=config_dict.create(seed=()),
        seed=0,
    )
    if variant == "tiny":
        config.name += "_tiny"
        config.data.update(source="digits", image_size=8, num_channels=1, batch_size=8)
        config.data.train_split, config.eval.split = "train", "test"
        config.model.update(hidden=(16,), num_latents=3)
        config.train.update(num_steps=4, log_every=2, save_every=2, sample_every=4)
        config.train.evaluate_every = 0
        config.sample.update(num_images=16, batch_size=16)
        config.eval.update(num_importance=2, batch_size=64, classifier="")
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

"""Fashion-MNIST, 28x28, for about an hour on a CPU.

    python -m diffusion_jax.main --config=configs/fashion_mnist.py

Data: apt-get install dataset-fashion-mnist (70,000 pictures, under /usr/share), or any
folder of MNIST-format files: --config.data.source=idx:PATH.
Expected: 3.5 bits/dim, see the README.
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(name="fashion_mnist", seed=0, method="ddpm")
    config.data = config_dict.create(
        source="idx:/usr/share/datasets/fashion-mnist",
        data_dir=config_dict.placeholder(str),
        train_split="train",
        image_size=28,
        num_channels=1,
        batch_size=32,
        flip=True,
    )
    config.model = config_dict.create(
        name="unet",
        base_channels=24,
        channel_multipliers=(1, 2, 2),
        num_blocks=1,
        attention_resolutions=(7,),
        dropout=0.0,
        num_classes=0,
        dtype="float32",
    )
    config.diffusion = config_dict.create(
        schedule="cosine",
        zero_snr=False,
        num_timesteps=1000,
        prediction="v",
        loss="simple",
        variance="fixedlarge",
        time_draw="uniform",
        label_dropout=0.0,
        self_condition=False,
    )
    config.optim = config_dict.create(
        learning_rate=2e-3,
        warmup_steps=200,
        decay_steps=6400,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        clip_norm=1.0,
        clip="global",
        ema_decay=0.999,
        ema_warmup=True,
    )
    config.train = config_dict.create(
        num_steps=6400,
        log_every=100,
        save_every=400,
        keep=3,
        evaluate_every=0,
        sample_every=1600,
    )
    config.sample = config_dict.create(
        checkpoint="last",
        sampler="ddim",
        num_steps=50,
        spacing="leading",
        eta=0.0,
        churn=0.0,
        clip="static",
        guidance_scale=1.0,
        guidance_interval=(float("-inf"), float("inf")),
        label=-1,
        num_images=100,
        batch_size=100,
        num_frames=0,
        view="samples",
        film=False,
        start=0.5,
        num_resamplings=5,
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="bound",
        split="test",
        num_terms=5,
        num_probes=1,
        batch_size=256,
        classifier="runs/fashion_mnist_classifier",
        sweep=config_dict.create(
            sampler=(), num_steps=(), spacing=(), guidance_scale=()
        ),
        seed=0,
    )
    if variant == "tiny":
        config.name += "_tiny"
        config.data.update(source="digits", image_size=8, num_channels=1, batch_size=8)
        config.data.train_split, config.eval.split = "train", "test"
        config.model.update(base_channels=8, channel_multipliers=(1, 2), num_blocks=1)
        config.diffusion.num_timesteps = 20
        config.optim.warmup_steps = 2
        config.train.update(num_steps=4, log_every=2, save_every=2, sample_every=4)
        config.sample.update(num_steps=5, num_images=16, batch_size=16)
        config.eval.update(num_terms=4, batch_size=64, classifier="")
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

"""LSUN Bedroom, 256x256, as in Ho et al. 2020: 113,673,219 parameters.

    python -m diffusion_jax.main --config=configs/lsun_bedroom256.py

Data: tfds build lsun/bedroom --file_format=array_record (needs the extra
"prepare"); pictures are resized so that the short side is 256 and centre-cropped.
Paper: FID 6.36 after 2.4M steps on a TPU v3-8 at 2.2 a second. Here: not measured.
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(name="lsun_bedroom256", seed=0, method="ddpm")
    config.data = config_dict.create(
        source="tfds:lsun/bedroom",
        data_dir=config_dict.placeholder(str),
        train_split="train",
        image_size=256,
        num_channels=3,
        batch_size=64,
        flip=False,
    )
    config.model = config_dict.create(
        name="unet",
        base_channels=128,
        channel_multipliers=(1, 1, 2, 2, 4, 4),
        num_blocks=2,
        attention_resolutions=(16,),
        dropout=0.0,
        num_classes=0,
        dtype="float32",
    )
    config.diffusion = config_dict.create(
        schedule="linear",
        zero_snr=False,
        num_timesteps=1000,
        prediction="eps",
        loss="simple",
        variance="fixedsmall",
        time_draw="uniform",
        label_dropout=0.0,
        self_condition=False,
    )
    config.optim = config_dict.create(
        learning_rate=2e-5,
        warmup_steps=5000,
        decay_steps=config_dict.placeholder(int),
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        clip_norm=1.0,
        clip="per_replica",
        ema_decay=0.9999,
        ema_warmup=False,
    )
    config.train = config_dict.create(
        num_steps=2_400_000,
        log_every=100,
        save_every=10_000,
        keep=3,
        evaluate_every=0,
        sample_every=10_000,
    )
    config.sample = config_dict.create(
        checkpoint="last",
        sampler="ancestral",
        num_steps=1000,
        spacing="leading",
        eta=0.0,
        churn=0.0,
        clip="static",
        guidance_scale=1.0,
        guidance_interval=(float("-inf"), float("inf")),
        label=-1,
        num_images=16,
        batch_size=16,
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
        split="validation",
        num_terms=20,
        num_probes=1,
        batch_size=16,
        classifier="",
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

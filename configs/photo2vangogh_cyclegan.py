"""CycleGAN between photographs and paintings of van Gogh, 256x256.

    python -m diffusion_jax.main --config=configs/photo2vangogh_cyclegan.py

Zhu et al. 2017, arXiv:1703.10593: its networks, weights, pool and schedule: 100 epochs
of the larger domain at one rate, 100 more in a straight line to 0.
Data: tfds build cycle_gan/vangogh2photo --file_format=array_record
(needs TensorFlow, see the README).
Expected: not measured (no accelerator was at hand).
"""

from ml_collections import config_dict


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds on a CPU."""
    config = config_dict.create(
        name="photo2vangogh_cyclegan", seed=0, method="cyclegan"
    )
    config.data = config_dict.create(
        source="tfds:cycle_gan/vangogh2photo",
        data_dir=config_dict.placeholder(str),
        train_split="trainB",
        image_size=256,
        num_channels=3,
        batch_size=1,
        flip=True,
        source_b="tfds:cycle_gan/vangogh2photo",
        train_split_b="trainA",
    )
    config.model = config_dict.create(
        name="resnet",
        base_channels=64,
        num_blocks=9,
        num_downsamplings=2,
        disc_channels=64,
        disc_layers=3,
    )
    config.cyclegan = config_dict.create(
        loss="least_squares",
        cycle_weight=10.0,
        identity_weight=0.5,
        pool_size=50,
    )
    config.train = config_dict.create(
        num_steps=1257400,
        log_every=100,
        save_every=5000,
        keep=3,
        evaluate_every=0,
        sample_every=5000,
    )
    num_steps = config.train.get_oneway_ref("num_steps")
    config.optim = config_dict.create(
        learning_rate=0.0002,
        decay_start=num_steps // 2,
        decay_end=num_steps,
        b1=0.5,
        b2=0.999,
        eps=1e-08,
        ema_decay=0.0,
    )
    config.sample = config_dict.create(
        checkpoint="last",
        num_images=16,
        batch_size=8,
        view="translations",
        film=False,
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",
        measure="translation",
        split="testB",
        split_b="testA",
        paired=False,
        classifier="",
        classifier_b="",
        batch_size=8,
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
        config.model.update(base_channels=4, num_blocks=1, num_downsamplings=1)
        config.model.update(disc_channels=4, disc_layers=1)
        config.cyclegan.pool_size = 6
        config.train.update(num_steps=4, log_every=2, save_every=2, sample_every=4)
        config.train.evaluate_every = 0
        config.sample.update(num_images=16, batch_size=16)
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known ones: tiny.")
    return config

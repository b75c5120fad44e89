"""Scikit-learn's 8x8 digits, for a CPU: the first run of a newcomer.

    bash launch/local.sh configs/digits.py

About a minute of training on two cores.
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment; variant "tiny" is a smoke run of seconds."""
    config = ml_collections.ConfigDict()
    config.name = "digits"
    config.seed = 0
    config.method = "ddpm"
    config.data = ml_collections.ConfigDict(
        {
            "source": "digits",
            "data_dir": None,
            "train_split": "train",
            "image_size": 8,
            "num_channels": 1,
            "batch_size": 128,
            "flip": False,
        }
    )
    config.model = ml_collections.ConfigDict(
        {
            "name": "unet",
            "base_channels": 32,
            "channel_multipliers": (1, 2),
            "num_blocks": 1,
            "attention_resolutions": (4,),
            "dropout": 0.0,
            "dtype": "float32",
        }
    )
    config.diffusion = ml_collections.ConfigDict(
        {
            "schedule": "linear",
            "num_timesteps": 1000,
            "prediction": "eps",
            "loss": "simple",
            "variance": "fixedlarge",
        }
    )
    config.optim = ml_collections.ConfigDict(
        {
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "decay_steps": None,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "clip_norm": 1.0,
            "clip": "global",
            "ema_decay": 0.995,
            "ema_warmup": True,
        }
    )
    config.train = ml_collections.ConfigDict(
        {
            "num_steps": 3000,
            "log_every": 100,
            "save_every": 1000,
            "keep": 3,
            "evaluate_every": 0,
            "sample_every": 1000,
        }
    )
    config.sample = ml_collections.ConfigDict(
        {
            "checkpoint": "last",
            "sampler": "ddim",
            "num_steps": 100,
            "spacing": "leading",
            "eta": 0.0,
            "clip": True,
            "num_images": 100,
            "batch_size": 100,
            "num_frames": 0,
            "seed": 0,
        }
    )
    config.eval = ml_collections.ConfigDict(
        {
            "checkpoint": "last",
            "measure": "bound",
            "split": "test",
            "num_terms": 20,
            "batch_size": 256,
            "seed": 0,
        }
    )
    return config

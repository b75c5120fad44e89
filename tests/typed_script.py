"""What a user's program calls, for type checkers; test_package.py checks it."""

from typing import Any, assert_type

import numpy as np
from PIL import Image

import diffusion_jax as dj


def use(config: Any, images: np.ndarray) -> Image.Image:
    """Calls every public function."""
    trained = assert_type(dj.train(config, "runs/digits"), dj.TrainedModel)
    model = assert_type(dj.load("runs/digits", checkpoint="best"), dj.TrainedModel)
    samples = model.sample(16, seed=0, sampler="dpmpp_2m", num_steps=15, label=3)
    assert_type(samples, np.ndarray | Any)
    found = assert_type(model.run("inpaint", 4, seed=1), dict[str, Any])
    record = assert_type(trained.evaluate("vlb", split="test"), dict[str, Any])
    model.evaluate(sample={"num_examples": 100})
    assert_type(model.reconstruct(images), np.ndarray)
    assert_type(model.translate(images, reverse=True), np.ndarray)
    rows = assert_type(model.interpolate(images, images[::-1]), np.ndarray)
    print(dj.__version__.split("."), record["bits_per_dim"], found, samples.shape)
    print(model.step + 1, model.workdir / "config.json", model.config.sample.sampler)
    dj.show(samples)
    return assert_type(dj.show(rows, columns=9), Image.Image)

"""The pages on how to extend the project: their code runs as a reader would run it."""

import shlex

import numpy as np
import pytest
from documents import DOCS, call_main, find_blocks, find_commands

from diffusion_jax import methods, models
from diffusion_jax.data import base, loader, sources
from diffusion_jax.diffusion import samplers

TABLES = {
    "own_sampler": (samplers, "SAMPLERS"),
    "own_network": (models, "MODELS"),
    "own_dataset": (sources, "SOURCES"),
    "own_family": (methods, "FAMILIES"),
}
UNET = ["base_channels=8", "channel_multipliers=(1,)"]
SMALL = {  # networks that compile quickly
    "own_sampler": UNET,
    "own_network": ["num_blocks=1"],
    "own_dataset": UNET,
    "own_family": UNET,
}
EXAMPLES = "--config.sample.num_examples="


@pytest.fixture
def tables():
    """Removes the rows that a page adds."""
    rows = [getattr(*x) for x in TABLES.values()]
    before = [set(x) for x in rows]
    yield
    for table, known in zip(rows, before, strict=True):
        for name in set(table) - known:
            del table[name]


@pytest.mark.parametrize("name", TABLES)
def test_page(name, tables, monkeypatch, tmp_path):
    """The page's commands train two steps, sample and evaluate with the file that its
    first block is, and its other blocks run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    page = (DOCS / f"{name}.md").read_text()
    config, *others = find_blocks("python", page)
    (tmp_path / f"{name}.py").write_text(config)
    for line in find_commands(page):
        program, *arguments = shlex.split(line)
        assert program == "diffusion-jax"
        if not any(x.startswith("--mode=") for x in arguments):
            arguments += ["--config.train.num_steps=2"]
            arguments += [f"--config.model.{x}" for x in SMALL[name]]
        arguments = [x for x in arguments if not x.startswith(EXAMPLES)]
        call_main([*arguments, f"{EXAMPLES}9"], monkeypatch)
    assert (tmp_path / f"runs/{name}/sample.png").exists()
    found = {}
    for block in others:
        exec(block, found)
    if name != "own_dataset":
        assert found["images"].shape == (16, 8, 8, 1)
    if name == "own_sampler":
        # The law: Gaussian data and their exact denoiser give their mean and deviation.
        np.testing.assert_allclose(found["x_0"].mean(), found["MEAN"], atol=0.02)
        np.testing.assert_allclose(found["x_0"].std(), found["STD"], atol=0.02)
    if name == "own_dataset":
        negatives = sources.make("inverted:shapes:0.9", "test", 16, 1)
        assert negatives.arrays["label"].mean() < 0.2  # 0: discs
        noise = found["open_noise"]("", base.ImageSpec("train", (4, 4), 3))
        batch = loader.to_batch(noise, np.arange(5))
        assert batch["image"].shape == (5, 4, 4, 3)
        np.testing.assert_array_equal(batch["label"], np.arange(5))

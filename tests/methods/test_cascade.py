"""Laws of cascades: what each stage sees, what moves, and how stages are chained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoke import load, restore

from diffusion_jax import methods, run_data, runs
from diffusion_jax.methods import cascade
from diffusion_jax.methods.ddpm import tasks
from diffusion_jax.training_loop import train

OPTIONS = cascade.CascadeOptions("ddim", 3, "trailing", cond_noise=0.25)


@pytest.fixture(scope="module")
def source():
    """Digits with captions."""
    return run_data.open_train(load("digits_cascade"))


@pytest.fixture(scope="module")
def method(source):
    """4x4 and 8x8 pixels."""
    return methods.make(load("digits_cascade"), source.fields)


@pytest.fixture(scope="module")
def variables(method):
    """Random ones; a fresh U-Net would output 0."""
    found, _ = method.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(found)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [jax.random.normal(k, x.shape) / 8 for k, x in zip(keys, leaves)]
    return jax.tree.map(jnp.add, found, tree.unflatten(noise))


@pytest.fixture(scope="module")
def batch(source):
    """Four examples."""
    index = np.arange(4)
    found = {"index": index.astype(np.int32)} | source.read(index)
    return found | {"image": found["image"] / np.float32(127.5) - 1}


def test_stages_see_averages_of_the_same_image(method, batch):
    """The base sees the image's block means, the upsampler the image and the same
    block means; an average keeps the mean, and of its own size is the image."""
    base = method.stage_batch(batch, "base")
    upsampler = method.stage_batch(batch, "upsampler")
    np.testing.assert_array_equal(upsampler["image"], batch["image"])
    np.testing.assert_array_equal(upsampler["cond_image"], base["image"])
    assert base["image"].shape == (4, 4, 4, 1) and "cond_image" not in base
    by_hand = batch["image"][:, :2, 2:4].mean(axis=(1, 2))
    np.testing.assert_allclose(base["image"][:, 0, 1], by_hand, rtol=1e-5, atol=1e-6)
    means = (x.mean(axis=(1, 2)) for x in (base["image"], batch["image"]))
    np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-6)


def test_samples_go_through_the_stages(method, variables, batch):
    """The base's images are those of its own task, and the upsampler's those of its own
    task with them as the condition; what is conditioned on is not an output."""
    task = cascade.make_sample(method, OPTIONS)
    assert task.inputs == ("caption",) and set(task.prompts) == {"caption"}
    key, batch = jax.random.key(3), {k: batch[k] for k in ("index", "caption")}
    found = jax.jit(task.run)(variables, batch, key)
    shapes = {name: x.shape[1:] for name, x in found.items()}
    assert shapes == {name: x.shape for name, x in task.outputs.items()}
    assert set(found) == {"image", "base_image", "caption"}

    alone, image = dataclasses.replace(OPTIONS, cond_noise=0.0), None
    for number, (name, options) in enumerate((("base", alone), ("upsampler", OPTIONS))):
        stage = tasks.make_sample(method.stages[name], options)
        given = (
            batch if image is None else batch | {"cond_image": jnp.clip(image, -1, 1)}
        )
        image = jax.jit(stage.run)(
            method.stage_variables(variables, name),
            given,
            jax.random.fold_in(key, number),
        )["image"]
        expected = found["base_image" if name == "base" else "image"]
        np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)

    rows = jax.jit(cascade.make_stages(method, OPTIONS).run)(variables, batch, key)
    np.testing.assert_allclose(rows["rows"][:, 1], found["image"], rtol=1e-4, atol=1e-5)


def test_guidance_of_stages_without_dropping(source):
    """Guidance is for the stages that were trained without captions, too; if the base
    was not, it is refused."""
    config = load("digits_cascade")
    config.upsampler.diffusion.cond_dropout = 0.0
    guided = dataclasses.replace(OPTIONS, guidance_scale=2.0)
    cascade.make_sample(methods.make(config, source.fields), guided)
    config.diffusion.cond_dropout = 0.0
    with pytest.raises(ValueError, match="guidance_scale = 2.0 needs"):
        cascade.make_sample(methods.make(config, source.fields), guided)


def test_steps_are_limited_by_every_stage():
    """More steps than an upsampler has timesteps are refused before training, unless
    it has steps of its own."""
    config = load("digits_cascade")
    config.upsampler.diffusion.num_timesteps = 4
    with pytest.raises(ValueError, match=r"sample.num_steps must lie in 1..4"):
        methods.check_training(config)
    config.sample.upsampler_num_steps = 4
    methods.check_training(config)


def test_options_of_upsamplers(source):
    """Options of the upsamplers replace the others there and only there; guidance that
    an upsampler was not trained for is refused if it is asked for."""
    config = load("digits_cascade")
    config.sample.update(upsampler_sampler="ancestral", upsampler_num_steps=2)
    method = methods.make(config, source.fields)
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        make = tasks.make_sample
        spy = lambda x, options: (seen.update({x: options}), make(x, options))[1]  # noqa: E731
        patch.setattr(tasks, "make_sample", spy)
        methods.make_task(config, method, "sample")
    found = [seen[x] for x in method.stages.values()]
    assert [(x.sampler, x.num_steps) for x in found] == [("ddim", 5), ("ancestral", 2)]
    assert found[0].spacing == found[1].spacing == "trailing"
    config.sample.upsampler_num_steps = 30
    with pytest.raises(ValueError, match="num_steps must lie in 1..20") as caught:
        methods.make_task(config, method, "translate")
    assert "sample.upsampler_NAME" in caught.value.__notes__[0]
    config.sample.update(upsampler_num_steps=None, upsampler_guidance_scale=2.0)
    methods.make_task(config, method, "sample")
    config.upsampler.diffusion.cond_dropout = 0.0
    with pytest.raises(ValueError, match="guidance_scale = 2.0 needs"):
        methods.make_task(config, methods.make(config, source.fields), "sample")


def test_assembled_from_other_runs(tmp_path, source, caplog):
    """Stages that are not trained keep the weights of other runs, bit for bit, whatever
    the group is called there; a single step assembles them. Another meaning of a
    network's predictions is worth a warning."""
    short = {"train__num_steps": 2, "train__sample_every": 0}
    train(load("digits_upsampler", **short), tmp_path / "upsampler")
    joint = load("digits_cascade", **short)
    joint.upsampler.model.caption_width = 0
    joint.upsampler.diffusion.cond_dropout = 0.0
    train(joint, tmp_path / "joint")
    config = joint.copy_and_resolve_references()
    config.cascade.trained, config.train.num_steps = (), 1
    config.train.init_from = f"base={tmp_path}/joint,upsampler:net={tmp_path}/upsampler"
    config.upsampler.diffusion.prediction = "eps"
    caplog.set_level("WARNING")
    train(config, tmp_path / "other")
    words = "prediction=v there and eps here. Unless upsampler is trained"
    assert caplog.text.count(words) == 1
    config.upsampler.diffusion.prediction = "v"
    train(config, tmp_path / "both")
    assert caplog.text.count("Unless") == 1
    state = restore(config, tmp_path / "both")
    first = runs.load(joint, tmp_path / "joint", "last").variables
    second = runs.load(load("digits_upsampler"), tmp_path / "upsampler", "last")
    expected = {
        "base": first.params["base"],
        "upsampler": second.variables.params["net"],
    }
    assert set(state.params) == set(expected)
    jax.tree.map(np.testing.assert_array_equal, dict(state.params), expected)
    jax.tree.map(np.testing.assert_array_equal, dict(state.ema), expected)


def test_nothing_is_trained(tmp_path):
    """Without trained stages, those that are not copied are refused before step 0."""
    config = load("digits_cascade")
    config.cascade.trained = ()
    with pytest.raises(ValueError, match="of base are random .*init_from=base=WORKDIR"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


REFUSED = [
    ({"cascade.factor": 3}, "factor = 3 need images .*multiples of 3.*8x8x1"),
    ({"cascade.trained": ("bas",)}, "cascade.trained 'bas'. Known: base, upsampler"),
    ({"cascade.upsamplers": ("second",)}, "cascade.upsamplers 'second'"),
    ({"upsampler.model.cond_image": False}, "upsampler.model.cond_image is False"),
    ({"upsampler.model.num_blocks": -1}, "upsampler.model.num_blocks must be at least"),
    ({"upsampler.model.channel_multipliers": ()}, "upsampler.model.channel_multipl"),
    ({"upsampler.diffusion.prediction": "noise"}, "diffusion.prediction 'noise'"),
    ({"model.cond_image": True}, "model.cond_image is True, but the base"),
    ({"cascade.upsamplers": ()}, "cascade.upsamplers is empty"),
    ({"cascade.upsamplers": ("upsampler",) * 2}, "upsamplers = .* a stage twice"),
    ({"cascade.upsamplers": ("sample",)}, "upsamplers 'sample'. Known: upsampler"),
    ({"cascade.trained": ("base", "base")}, "trained = .* a stage twice"),
    ({"upsampler.model.num_classes": 5}, "num_classes = 5 must be 0, or that of"),
]


@pytest.mark.parametrize("changes, message", REFUSED)
def test_refused(changes, message, source):
    """Values that contradict each other are refused, with the group they are in."""
    config = load("digits_cascade")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message) as caught:
        methods.make(config, source.fields)
    if "upsampler.diffusion.prediction" in changes:
        assert "in the group upsampler" in caught.value.__notes__[0]

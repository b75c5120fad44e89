"""A cascade: a diffusion model of small images, and others that enlarge them.

Source: Ho et al. 2022, arXiv:2106.15282.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax import Array
from ml_collections import ConfigDict, config_dict

from diffusion_jax.data.base import COND_IMAGE, Field, image_field, shape_text
from diffusion_jax.lookup import lookup
from diffusion_jax.methods import base
from diffusion_jax.methods.ddpm import config as ddpm
from diffusion_jax.methods.ddpm import tasks
from diffusion_jax.methods.ddpm.method import DDPM
from diffusion_jax.methods.ddpm.tasks import SampleOptions
from diffusion_jax.training.state import Loss, Phase, Variables

BASE = "base"  # the first stage
OF_UPSAMPLERS = "sampler", "num_steps", "guidance_scale"  # options of their own


@dataclasses.dataclass(frozen=True)
class Cascade(base.Method):
    """Stages of growing resolution, each conditioned on the image of the one before.

    Every stage is a `DDPM` with a parameter group of its name, and with a phase of this
    name if it is trained. In training a stage gets real images, averaged to its size.

    Attributes:
      phases: of the stages that are trained.
      stages: the diffusion models, by name; the last one has the size of the data.
      data: name of the images' field.
      field: of the last stage's images.
    """

    phases: tuple[Phase, ...]
    stages: FrozenDict[str, DDPM]
    data: str
    field: Field

    def init(self, key: Array) -> tuple[Variables, base.PyTree]:
        """Initialises every stage; aux has the timestep samplers' states by stage."""
        params, aux = {}, {}
        keys = jax.random.split(key, len(self.stages))
        for (name, stage), stage_key in zip(self.stages.items(), keys, strict=True):
            variables, aux[name] = stage.init(stage_key)
            params[name] = variables.params[base.GROUP]
        return Variables(params, {}), aux

    def loss(
        self,
        phase: str,
        variables: Variables,
        aux: base.PyTree,
        batch: base.Batch,
        key: Array,
        step: Array,
    ) -> Loss:
        """The loss of one stage."""
        loss = self.stages[phase].loss(
            base.GROUP,
            self.stage_variables(variables, phase),
            aux[phase],
            self.stage_batch(batch, phase),
            key,
            step,
        )
        return loss._replace(observed={phase: loss.observed})

    def after_step(
        self, variables: Variables, aux: base.PyTree, observed: base.PyTree
    ) -> tuple[dict[str, base.PyTree], base.PyTree]:
        """Updates the timestep sampler of the stage that was trained."""
        ((name, of_stage),) = observed.items()
        _, updated = self.stages[name].after_step(variables, aux[name], of_stage)
        return variables.state, aux | {name: updated}

    def stage_variables(self, variables: Variables, name: str) -> Variables:
        """Returns the variables of a stage, as its `DDPM` expects them."""
        return Variables({base.GROUP: variables.params[name]}, {})

    def stage_batch(self, batch: base.Batch, name: str) -> base.Batch:
        """Returns a batch with images of a stage's size, and of the one before."""
        stage, image = self.stages[name], batch[self.data]
        found = batch | {self.data: average(image, stage.field.shape)}
        if name != BASE:
            smaller = stage.condition(COND_IMAGE).shape
            found[COND_IMAGE] = average(image, smaller)
        return found


def average(images: Array, shape: tuple[int, ...]) -> Array:
    """Averages blocks of pixels: [B, H, W, C] -> [B, *shape], whose sides divide H, W.

    The average of all pixels stays the same.
    """
    height, width, channels = shape
    rows, columns = images.shape[1] // height, images.shape[2] // width
    blocks = images.reshape(-1, height, rows, width, columns, channels)
    return jnp.mean(blocks, axis=(2, 4))


@dataclasses.dataclass(frozen=True)
class CascadeOptions(SampleOptions):
    """Options of drawing through all stages.

    Attributes:
      upsampler_sampler: what the upsamplers have instead of sampler; None: the same.
      upsampler_num_steps: instead of num_steps.
      upsampler_guidance_scale: instead of guidance_scale.
    """

    upsampler_sampler: str | None = None
    upsampler_num_steps: int | None = None
    upsampler_guidance_scale: float | None = None


def make_sample(method: Cascade, options: CascadeOptions) -> base.Task:
    """Draws images through all stages.

    sample.cond_noise is added before every upsampler. Guidance and thresholding apply
    in all stages; upsamplers that were trained without dropping have no guidance unless
    it is asked for, which is then refused.

    Returns:
      A task with the outputs of the last stage's task, and "STAGE_image" of the others.

    Raises:
      ValueError: the options are invalid.
    """
    *earlier, last = method.stages
    of_stage = {}
    for name, stage in method.stages.items():
        with _naming(name):
            stage_options = _stage_options(stage, options, name == last)
            of_stage[name] = tasks.make_sample(stage, stage_options)
    own = {
        name: field
        for name, field in of_stage[last].outputs.items()
        if name not in (COND_IMAGE, "caption")
    }
    others = {f"{name}_{method.data}": method.stages[name].field for name in earlier}

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        images: dict[str, Array] = {}
        for number, (name, task) in enumerate(of_stage.items()):
            stage_key = jax.random.fold_in(key, number)
            stage_variables = method.stage_variables(variables, name)
            found = task.run(stage_variables, batch, stage_key)
            if name != last:
                images[f"{name}_{method.data}"] = found[method.data]
            # Upsamplers are trained on real images, which lie in [-1, 1].
            batch = batch | {COND_IMAGE: jnp.clip(found[method.data], -1, 1)}
        return {name: found[name] for name in own} | images

    inputs = {
        x: None for task in of_stage.values() for x in task.inputs if x != COND_IMAGE
    }
    task = base.Task(run, tuple(inputs), own | others)
    return base.with_captions(task, _caption(method))


def make_stages(method: Cascade, options: CascadeOptions) -> base.Task:
    """Draws images and shows all stages: "rows" [B, stages, ...], of the last size."""
    task = make_sample(method, dataclasses.replace(options, num_frames=0))
    *earlier, _ = method.stages

    def rows(variables: Variables, batch: base.Batch, key: Array) -> list[Array]:
        found = task.run(variables, batch, key)
        names = [*(f"{name}_{method.data}" for name in earlier), method.data]
        return [base.as_image(found[name], method.field.shape) for name in names]

    sizes = ["{}x{}".format(*stage.field.shape) for stage in method.stages.values()]
    found = base.rows_task(rows, task.inputs, method.field, sizes)
    return base.with_captions(found, _caption(method))


def make_translate(method: Cascade, options: CascadeOptions) -> base.Task:
    """Enlarges real images with the last stage: see `ddpm.tasks.make_translate`."""
    *_, (name, stage) = method.stages.items()
    with _naming(name):
        task = tasks.make_translate(stage, _stage_options(stage, options, True))

    def run(variables: Variables, batch: base.Batch, key: Array) -> dict[str, Array]:
        return task.run(
            method.stage_variables(variables, name),
            method.stage_batch(batch, name),
            key,
        )

    inputs = tuple(x for x in task.inputs if x != COND_IMAGE)
    return base.Task(run, inputs, task.outputs, task.prompts)


def _caption(method: Cascade) -> Field | None:
    """Returns the field of the captions that some stage is conditioned on, or None."""
    fields = (stage.condition("caption") for stage in method.stages.values())
    return next((field for field in fields if field is not None), None)


def _stage_options(
    stage: DDPM, options: CascadeOptions, is_last: bool
) -> CascadeOptions:
    """Returns what of the options applies to a stage."""
    if COND_IMAGE not in stage.inputs:
        changes = {"cond_noise": 0.0}
    else:
        own = {name: getattr(options, f"upsampler_{name}") for name in OF_UPSAMPLERS}
        changes = {name: value for name, value in own.items() if value is not None}
        if not any(condition.dropout for condition in stage.conditions):
            changes.setdefault("guidance_scale", 1.0)
    if not is_last:
        changes["num_frames"] = 0
    return dataclasses.replace(options, **changes)


def defaults() -> ConfigDict:
    """Returns the settings of a base and an upsampler.

    The groups model and diffusion are the base's; those of an upsampler are in a group
    of its name.
    """
    config = ddpm.defaults()
    config.name = config.method = "cascade"
    upsampler = {"model": ddpm.defaults().model, "diffusion": ddpm.defaults().diffusion}
    config.upsampler = ConfigDict(upsampler)
    config.upsampler.model.cond_image = True
    config.cascade = config_dict.create(
        upsamplers=("upsampler",),  # the groups of the stages after the base, in order
        factor=2,  # by which an upsampler enlarges an image, at least 2
        trained=(BASE, "upsampler"),  # the others keep the weights of train.init_from
    )
    config.sample.update(  # of the upsamplers; None: as the base
        upsampler_sampler=config_dict.placeholder(str),
        upsampler_num_steps=config_dict.placeholder(int),
        upsampler_guidance_scale=config_dict.placeholder(float),
    )
    config.eval.metric = "samples"
    del config.eval.num_terms, config.eval.num_probes
    for name in ("strength", "num_resamplings"):
        del config.sample[name]
    return config


def tiny(config: ConfigDict) -> None:
    """Turns a config into a smoke test that takes seconds on a CPU."""
    ddpm.make_tiny(config)
    for name in config.cascade.upsamplers:
        ddpm.make_tiny_model(config[name])
    config.cascade.trained = (BASE, *config.cascade.upsamplers)
    config.train.init_from = ""


def make(config: ConfigDict, fields: base.Fields) -> Cascade:
    """Builds a cascade from the groups model, diffusion, cascade and the upsamplers'.

    Raises:
      ValueError: the data are no images of a suitable size, or values contradict each
        other.
    """
    names, factor = tuple(config.cascade.upsamplers), config.cascade.factor
    _check_names(config)
    data, field = base.data_field(fields, ("image",))
    height, width, channels = field.shape
    total = factor ** len(names)
    if height % total or width % total:
        raise ValueError(
            f"{len(names)} upsamplers by cascade.factor = {factor} need images whose "
            f"sides are multiples of {total}, and these have "
            f"{shape_text(field.shape)}: change data.image_size."
        )
    stages, smaller = {}, {}
    for number, name in enumerate((BASE, *names)):
        group = _group(config, name)
        share = factor ** (len(names) - number)
        image = image_field((height // share, width // share, channels))
        found = {**fields, data: image, **smaller}
        with _naming(name):
            stages[name] = ddpm.make(group, found)
        smaller = {COND_IMAGE: image}
    phases = []
    for name in config.cascade.trained:
        (phase,) = lookup(stages, name, "stage in cascade.trained").phases
        phases.append(phase._replace(name=name, trains=(name,)))
    return Cascade(tuple(phases), FrozenDict(stages), data, field)


def _check_names(config: ConfigDict) -> None:
    """Checks that the stages are different, and groups of the config."""
    groups = {
        name: group
        for name, group in config.items()
        if isinstance(group, ConfigDict) and {"model", "diffusion"} <= {*group}
    }
    for name in config.cascade.upsamplers:
        lookup(groups, name, "group in cascade.upsamplers")
    for key in ("upsamplers", "trained"):
        names = config.cascade[key]
        if len(set(names)) < len(names):
            raise ValueError(f"cascade.{key} = {names} names a stage twice.")
    if not config.cascade.upsamplers:
        raise ValueError("cascade.upsamplers is empty: name at least one, or use ddpm.")


@contextlib.contextmanager
def _naming(stage: str) -> Iterator[None]:
    """Adds to errors about a stage where in the config its keys are."""
    try:
        yield
    except ValueError as error:
        if stage != BASE:
            error.add_note(
                f"This is about {stage}: its model and diffusion are in the group "
                f"{stage} of the config, its options are sample.NAME, or "
                "sample.upsampler_NAME for sampler, num_steps and guidance_scale."
            )
        raise


def _group(config: ConfigDict, name: str) -> ConfigDict:
    """Returns the config of a stage, as that of a diffusion model."""
    group = config if name == BASE else config[name]
    found = {key: group[key] for key in ("model", "diffusion")}
    if name == BASE and config.model.cond_image:
        raise ValueError(
            "model.cond_image is True, but the base of a cascade has no image before "
            "it: set it to False."
        )
    if name != BASE and not group.model.cond_image:
        raise ValueError(
            f"{name}.model.cond_image is False, but an upsampler is conditioned on the "
            "image that it enlarges: set it to True."
        )
    if group.model.num_classes not in (0, config.model.num_classes):
        raise ValueError(
            f"{name}.model.num_classes = {group.model.num_classes} must be 0, or that "
            f"of the base, model.num_classes = {config.model.num_classes}."
        )
    shared = {key: config[key] for key in ("data", "optim", "sample")}
    return ConfigDict({"method": "ddpm", **shared, **found})


TASKS = {
    "sample": (CascadeOptions, make_sample),
    "stages": (CascadeOptions, make_stages),
    "translate": (CascadeOptions, make_translate),
}
FAMILY = base.Family(make, defaults, TASKS)

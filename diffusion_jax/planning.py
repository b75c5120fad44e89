"""Fills in what a config leaves open, such as that of one's own pictures.

A config leaves a value open as None, as configs/folder.py does. Before a new run starts
`complete` looks at the data, chooses these values by rules of thumb, and logs each with
its reason. Values that are set, by the config or on the command line, stay as they are.
The run's config.json has them all, so that a resumed run keeps its plan.
"""

import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from diffusion_jax import methods, run_config, strict_json
from diffusion_jax.data import sources
from diffusion_jax.data.survey import Survey, merge
from diffusion_jax.lookup import lookup
from diffusion_jax.training import parallel

LOGGER = logging.getLogger(__name__)

SIZES = 32, 64, 128  # proposed for the shorter side, in pixels
MAX_SIZE = {True: 32, False: 128}  # proposed at most: on a CPU, on an accelerator
MAX_RATIO = 1.25  # of the sides; pictures beyond it are not made square
FEW = 1000  # training pictures; with fewer, a model may copy them
MIN_APART = 100  # steps between two drawings
MAX_LEVELS = 6  # of a network, each with half the resolution
MAX_CLASSES, MIN_PER_CLASS = 1000, 5  # classes, and pictures of each on average


class Choice(NamedTuple):
    """A value of the plan.

    Attributes:
      key: dotted.
      value: the value.
      reason: in a few words.
    """

    key: str
    value: Any
    reason: str


class Machine(NamedTuple):
    """What the plan has to know of this machine.

    Attributes:
      is_cpu: whether it has no accelerator.
      num_devices: of all processes.
    """

    is_cpu: bool
    num_devices: int


def complete(
    config: ConfigDict,
    show: Callable[[str], None] = LOGGER.info,
    workdir: pathlib.Path | None = None,
) -> ConfigDict:
    """Returns the config with the values that it leaves open, and shows these.

    Args:
      config: of any family; one without open values is returned as it is.
      show: takes the table of the plan, and a note if there are few pictures.
      workdir: of the run. If there is one already, its values are taken instead.

    Raises:
      FileNotFoundError: the data are missing.
      ValueError: the data are of another kind, or a value cannot be planned.
    """
    if not open_keys(config):
        return config
    if workdir and (workdir / run_config.CONFIG).exists():
        check_source(config, workdir)
        return _as_stored(config, workdir)
    data = config.data
    domains = [(data.source, data.train_split)]
    if "source_b" in data:
        domains.append((data.source_b, data.train_split_b))
    for key, (source, _) in zip(("source", "source_b"), domains, strict=False):
        if source in run_config.UNNAMED:
            raise ValueError(
                f"Name the folder of your pictures: --config.data.{key}=folder:PATH, "
                "such as folder:/home/me/pictures."
            )
    pictures = merge([sources.look_at(*x, data.held_out) for x in domains])
    machine = Machine(jax.default_backend() == "cpu", parallel.num_devices())
    choices = plan(config, pictures, machine)
    show(table(choices, pictures, machine))
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({x.key: x.value for x in choices})
    if pictures.num_train < FEW and config.eval.metric == "copying":
        end = "."
        if config.train.evaluate_every:
            end = (
                ": at the end its samples are compared with these, and nearest.png "
                "shows the most similar ones."
            )
        show(
            f"A model of only {pictures.num_train} training pictures may copy some of "
            f"them instead of inventing new ones{end}"
        )
    return config


def choose_config(
    config: ConfigDict, mode: str, workdir: pathlib.Path, overrides: Mapping[str, Any]
) -> ConfigDict:
    """Returns the config that a command uses.

    --mode=config uses that of the file; train that of the run, if there is one; other
    modes that of the run. Overrides apply to all.

    Args:
      config: of the file, with the overrides.
      mode: of the command.
      workdir: the run's folder.
      overrides: value by dotted key.

    Raises:
      FileNotFoundError: the mode needs a run, and there is none.
      ValueError: the run has another config, or a value cannot change any more.
    """
    if mode == "config":
        return config
    if mode == "train":
        if not (workdir / run_config.CONFIG).exists():
            return config
        check_source(config, workdir)
    return run_config.read_config(workdir, config, overrides)


def show_config(config: ConfigDict, *_: pathlib.Path) -> None:
    """Prints a config as JSON; then, to stderr, what was planned of it."""
    notes: list[str] = []
    config = complete(config, notes.append)
    print(strict_json.dumps(config.to_dict(), indent=2), flush=True)
    for note in notes:
        print(note, file=sys.stderr)


def _as_stored(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
    """Returns the config with the values of a run where it leaves them open."""
    stored = run_config.stored_config(workdir)
    stored = run_config.complete(stored, config, workdir).to_dict()
    config = config.copy_and_resolve_references()
    for key in (*open_keys(config), "data.image_width"):
        group, name = key.split(".")
        if config[group][name] is None:
            config[group][name] = stored[group][name]
    return config


def check_source(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses to go on with a run that was planned for another folder.

    Such runs have the same name, whichever pictures they are of.

    Args:
      config: of the command; one that leaves nothing open may change its data.
      workdir: of the run.

    Raises:
      ValueError: its data.source is another folder.
    """
    if not open_keys(config):
        return
    stored = run_config.stored_config(workdir).data
    for key in (x for x in ("source", "source_b") if x in config.data):
        old, new = stored[key], config.data[key]
        if new in run_config.UNNAMED or _real(old) == _real(new):
            continue
        raise ValueError(
            f"The run in {workdir} is a model of {old}, not of {new}: give another "
            "model its own folder, such as --workdir=runs/NAME. If the pictures have "
            f"only moved, leave a link to them at the old place, and keep data.{key}."
        )


def _real(source: str) -> str:
    return os.path.realpath(os.path.expanduser(source.removeprefix("folder:")))


def open_keys(config: ConfigDict) -> list[str]:
    """Returns the dotted keys that a config leaves open.

    These are None, although the family's defaults have a value there.
    """
    defaults = lookup(methods.FAMILIES, config.method, "method").defaults()
    optional = set(_none_keys(defaults))
    return [key for key in _none_keys(config) if key not in optional]


def plan(config: ConfigDict, pictures: Survey, machine: Machine) -> list[Choice]:
    """Chooses the values that a config leaves open.

    Args:
      config: of a family in PLANS.
      pictures: what the training data are like.
      machine: that trains.

    Returns:
      The choices, in the order of the decisions. `data.image_width` may be among them
      if data.image_size is open.

    Raises:
      ValueError: there is no rule for an open value.
    """
    wanted = open_keys(config)
    if config.method not in PLANS:
        raise ValueError(
            f"config.{wanted[0]} is None, and nothing is planned for a {config.method}"
            f" (only for {', '.join(PLANS)}): set it."
        )
    draft, choices = config.copy_and_resolve_references(), []

    def choose(key: str, value: Any, reason: str) -> None:
        if key in wanted or key == "data.image_width":
            choices.append(Choice(key, value, reason))
            draft.update_from_flattened_dict({key: value})

    _plan_data(draft, pictures, machine, choose)
    _plan_batch(draft, pictures, machine, choose)
    PLANS[config.method](draft, pictures, machine, choose)
    _plan_schedule(draft, pictures, choose)
    left = open_keys(draft)
    if left:
        raise ValueError(
            f"config.{left[0]} is None, and there is no rule to plan it: set it."
        )
    return choices


def table(choices: Sequence[Choice], pictures: Survey, machine: Machine) -> str:
    """Formats a plan as a table of keys, values and reasons."""
    size = f"{pictures.height}x{pictures.width} pixels (height x width)"
    lines = [
        f"Planned for {pictures.num_train} training pictures, "
        f"{'all' if pictures.same_size else 'typically'} of {size}, on "
        f"{'a CPU' if machine.is_cpu else 'an accelerator'}. --config.KEY=VALUE sets "
        "any value:"
    ]
    values = [str(choice.value) for choice in choices]
    widths = max(len(x.key) for x in choices), max(map(len, values))
    for (key, _, reason), value in zip(choices, values, strict=True):
        lines.append(f"  {key:<{widths[0]}}  {value:<{widths[1]}}  {reason}")
    return "\n".join(lines)


# (key, value, reason): takes the choice, unless the value is set already.
Choose = Callable[[str, Any, str], None]


def _plan_data(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses size, channels, classes and the held-out split."""
    if config.data.image_size is None:
        _plan_size(config, pictures, machine, choose)
    reason = "no picture that was looked at has colours"
    channels = (1, reason) if pictures.grey else (3, "the pictures have colours")
    choose("data.num_channels", *channels)
    if pictures.held_out:
        split, reason = pictures.held_out, "pictures that are not trained on"
    else:
        split, reason = config.data.train_split, "there are no held-out pictures"
    choose("eval.split", split, reason)
    other = pictures.held_out_b
    choose("eval.split_b", other or config.data.get("train_split_b"), reason)
    num = pictures.num_classes
    if num < 2:
        classes = 0, "there are no folders of classes"
    elif num > MAX_CLASSES or pictures.num_train < MIN_PER_CLASS * num:
        classes = 0, f"{num} folders are too many to be classes"
    else:
        classes = num, "one for each folder"
    choose("model.num_classes", *classes)


def _plan_size(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses data.image_size, and data.image_width where it is open as well."""
    height, width = pictures.height, pictures.width
    set_width, largest = config.data.image_width, MAX_SIZE[machine.is_cpu]
    levels = _num_levels(height, width, 4)
    halves = levels > 1 and min(height, width) >> levels - 1 < 8
    kept = max(height, width) <= largest and halves or not pictures.resizes
    if pictures.same_size and kept and set_width in (None, width):
        choose("data.image_size", height, "as all pictures are")
        if width not in (height, set_width):
            choose("data.image_width", width, "as all pictures are")
        return
    ratio = min(max(width / height, 1 / 2), 2.0)
    square = 1 / MAX_RATIO <= ratio <= MAX_RATIO
    short = min(height, width)
    side = max([x for x in SIZES if x <= min(short, largest)], default=SIZES[0])
    if short < side:
        reason = f"the smallest size that is planned; the pictures have {short}"
    elif short >= 2 * side and side == largest:
        reason = f"the pictures have {short}; more pixels take much longer"
    else:
        reason = f"the pictures' shorter side has {short} pixels"
    unit = side // 4  # sides that can be halved several times
    long = round(side * max(ratio, 1 / ratio) / unit) * unit
    if set_width is not None:  # the height follows
        set_height = set_width if square else round(set_width / ratio / unit) * unit
        choose("data.image_size", max(set_height, unit), "follows data.image_width")
        return
    choose("data.image_size", side if square or ratio > 1 else long, reason)
    if not square and long != side:
        shape = "wider than high" if ratio > 1 else "higher than wide"
        if not 1 / 2 <= width / height <= 2:
            shape += ", and are cropped at both ends"
        choose("data.image_width", long if ratio > 1 else side, f"they are {shape}")


def _plan_batch(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses data.batch_size."""
    short = min(_sides(config))
    if config.method == "cyclegan":
        size = 4 if machine.is_cpu else 1
    elif config.method == "ddpm":
        size = (32 if short <= 64 else 16) if machine.is_cpu else 64
    else:
        size = 64
    num = machine.num_devices
    wanted = max(size, num) // num * num
    batch = max(min(wanted, pictures.num_train // num * num), num)
    reason = "usual for this size" if batch == wanted else "no more than pictures"
    if batch > pictures.num_train:
        reason = "one for each device; there are fewer pictures"
    if num > 1:
        reason += f", on {num} devices"
    choose("data.batch_size", batch, reason)


def _plan_ddpm(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses a U-Net and its training; see configs/fashion_mnist.py, cifar10.py."""
    height, width = _sides(config)
    levels = _num_levels(height, width, 4 if min(height, width) <= 16 else 7)
    lowest = f"{height >> levels - 1}x{width >> levels - 1} pixels on the lowest level"
    if min(height, width) >> levels - 1 > 16:
        lowest += "; sides that are multiples of 32 would be much faster"
    if machine.is_cpu:
        # Half as many channels for each level that a larger picture adds on top.
        multipliers = CPU_MULTIPLIERS[levels]
        base, base_reason = max(48 // multipliers[-1], 8), "narrow, for a CPU"
    else:
        multipliers, base = ACCELERATOR_MULTIPLIERS[levels], 64
        base_reason = "half of Ho et al. 2020; 128 is better and slower"
    choose("model.base_channels", base, base_reason)
    choose("model.channel_multipliers", multipliers, lowest)
    choose("model.num_blocks", 1 if machine.is_cpu else 2, "residual blocks per level")
    sides = [(height >> i, width >> i) for i in range(levels)]
    most = 128 if machine.is_cpu else 512
    attention = tuple(h for h, w in sides if h * w <= most)
    choose("model.attention_resolutions", attention, "where there are few pixels")
    few = pictures.num_train < 10 * FEW
    dropout = (0.1, "against copying") if few else (0.0, "there are many pictures")
    choose("model.dropout", *dropout)
    _choose_dtype(machine, choose)
    conditional = config.model.num_classes
    reason = "so that sample.guidance_scale works" if conditional else "no classes"
    choose("diffusion.cond_dropout", 0.1 if conditional else 0.0, reason)
    rate = (1e-3, "small networks") if machine.is_cpu else (2e-4, "Ho et al. 2020")
    choose("optim.learning_rate", *rate)
    low, high = (2000, 4000) if machine.is_cpu else (5000, 100_000)
    _choose_steps(config, pictures, 500, low, high, choose)
    warmup = min(500, config.train.num_steps // 10)
    choose("optim.warmup_steps", warmup, "at most a tenth of the steps")


def _plan_vae(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses a convolutional VAE and its training."""
    halvings = _num_levels(*_sides(config), smallest=4) - 1
    width = 32 if machine.is_cpu else 64
    channels = tuple(min(width << i, 8 * width) for i in range(max(halvings, 1)))
    choose("model.channels", channels, "of the convolutions, one per halving")
    strides = (2,) * halvings if halvings else (1,)
    choose("model.strides", strides, "of the convolutions")
    choose("model.num_latents", 64 if machine.is_cpu else 128, "numbers per picture")
    low, high = (2000, 10_000) if machine.is_cpu else (5000, 50_000)
    _choose_steps(config, pictures, 500, low, high, choose)


def _plan_gan(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses a DCGAN and its training; see configs/fashion_mnist_dcgan.py."""
    width = (32, "narrow, for a CPU") if machine.is_cpu else (64, "half of the paper's")
    choose("model.width", *width)
    _choose_dtype(machine, choose)
    low, high = (2000, 8000) if machine.is_cpu else (10_000, 40_000)
    _choose_steps(config, pictures, 1000, low, high, choose)


def _plan_cyclegan(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses a CycleGAN and its training; see configs/horse2zebra_cyclegan.py."""
    short = min(_sides(config))
    width = (16, "narrow, for a CPU") if machine.is_cpu else (64, "as in the paper")
    choose("model.base_channels", *width)
    choose("model.disc_channels", 2 * width[0] if machine.is_cpu else 64, width[1])
    blocks = 3 if machine.is_cpu else 6 if short <= 128 else 9
    choose("model.num_blocks", blocks, "of the generator")
    halvings = min(2, _num_levels(*_sides(config), smallest=4) - 1)
    choose("model.num_downsamplings", halvings, "of the generator")
    patches = 2 if short <= 64 else 3
    layers = max(i for i in range(patches + 1) if 3 * 2**i <= max(short, 3))
    choose("model.disc_layers", layers, "how large the patches are that it judges")
    _choose_dtype(machine, choose)
    low, high = (2000, 5000) if machine.is_cpu else (20_000, 200_000)
    _choose_steps(config, pictures, 200, low, high, choose)


def _plan_classifier(
    config: ConfigDict, pictures: Survey, machine: Machine, choose: Choose
) -> None:
    """Chooses a convolutional classifier; see configs/digits_classifier.py.

    Raises:
      ValueError: there are no classes.
    """
    if config.model.num_classes < 2:
        raise ValueError(
            "A classifier needs classes, which the pictures do not have: put those of "
            f"each class into a subfolder of {config.data.source}, at least "
            f"{MIN_PER_CLASS} into each."
        )
    halvings = max(1, _num_levels(*_sides(config), smallest=4) - 1)
    channels = tuple(min(32 << i, 128) for i in range(halvings))
    choose("model.channels", channels, "of the convolutions, one per halving")
    low, high = (500, 3000) if machine.is_cpu else (1000, 20_000)
    _choose_steps(config, pictures, 60, low, high, choose)


def _plan_schedule(config: ConfigDict, pictures: Survey, choose: Choose) -> None:
    """Chooses what is done during training, and how many samples are drawn."""
    num_steps, train = config.train.num_steps, config.train
    decay = 0.999 if num_steps < 20_000 else 0.9999
    choose("optim.ema_decay", decay, "averaged weights are better than the last ones")
    steps, reason = num_steps // 10, "draws pictures ten times"
    if steps < MIN_APART:
        steps, reason = MIN_APART, "drawing takes as long as some tens of steps"
    if num_steps <= MIN_APART:
        steps, reason = num_steps, "draws pictures at the end"
    choose("train.sample_every", steps, reason)
    together = "at the same time" if train.sample_every else "ten times or less"
    choose("train.save_every", train.sample_every or steps, together)
    choose("train.log_every", max(1, min(100, num_steps // 20)), "often enough")
    few = pictures.num_train < FEW and pictures.held_out
    if few and config.eval.metric == "copying":
        evaluate = num_steps, "at the end: are the samples copies?"
    elif config.method == "classifier" and pictures.held_out:
        evaluate = num_steps, "at the end: how many held-out pictures are right?"
    else:
        evaluate = 0, "none; --mode=evaluate does it later"
    choose("train.evaluate_every", *evaluate)
    side = max(_sides(config))
    num, together = (36, 36) if side <= 64 else (16, 16) if side <= 128 else (16, 4)
    if config.method == "cyclegan":  # rows of six
        num, together = num // 3, together // 2
    choose("sample.num_examples", num, "pictures, or rows of them, in a grid")
    together = min(together, config.sample.num_examples)
    choose("sample.batch_size", together, "drawn at a time")


def _choose_steps(
    config: ConfigDict,
    pictures: Survey,
    epochs: int,
    low: int,
    high: int,
    choose: Choose,
) -> None:
    """Chooses train.num_steps: so many epochs, but within low..high."""
    steps = epochs * pictures.num_train // config.data.batch_size // 100 * 100
    num_steps = min(max(steps, low), high)
    seen = num_steps * config.data.batch_size / pictures.num_train
    choose("train.num_steps", num_steps, f"each picture is seen about {seen:.0f} times")


def _choose_dtype(machine: Machine, choose: Choose) -> None:
    dtype = "float32" if machine.is_cpu else "bfloat16"
    choose("model.dtype", dtype, "fastest here")


def _sides(config: ConfigDict) -> tuple[int, int]:
    height = config.data.image_size
    return height, config.data.image_width or height


def _num_levels(height: int, width: int, smallest: int) -> int:
    """Returns how many levels halve both sides, down to `smallest` pixels or more."""
    levels = 1
    while (
        levels < MAX_LEVELS
        and not (height % 2**levels or width % 2**levels)
        and min(height, width) >> levels >= smallest
    ):
        levels += 1
    return levels


def _none_keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from _none_keys(value, f"{prefix}{key}.")
        elif value is None:
            yield prefix + key


# By the number of levels; on a CPU the last level has about 48 channels.
CPU_MULTIPLIERS = {
    1: (1,),
    2: (1, 2),
    3: (1, 2, 2),
    4: (1, 2, 4, 4),
    5: (1, 2, 4, 8, 8),
    6: (1, 2, 4, 8, 8, 8),
}
ACCELERATOR_MULTIPLIERS = {
    1: (1,),
    2: (1, 2),
    3: (1, 2, 2),
    4: (1, 2, 2, 2),
    5: (1, 1, 2, 2, 4),
    6: (1, 1, 2, 2, 4, 4),
}
PLANS = {
    "ddpm": _plan_ddpm,
    "vae": _plan_vae,
    "gan": _plan_gan,
    "cyclegan": _plan_cyclegan,
    "classifier": _plan_classifier,
}

"""Defaults shared by all families; each family's own defaults are in its file."""

from collections.abc import Callable

from ml_collections import ConfigDict, config_dict


def image_data() -> ConfigDict:
    """Returns the group data of families of images (and points)."""
    return config_dict.create(
        source="digits",  # see data.sources.make
        data_dir=config_dict.placeholder(str),  # of TFDS; None for its default
        background="white",  # colour behind transparent pixels; or #RRGGBB
        held_out=0.1,  # share that is split "test" of a folder without splits, [0, 1)
        on_error="raise",  # or skip: replace examples that cannot be decoded
        check_files=False,  # decode all examples when their split is opened
        train_split="train",
        image_size=8,  # height, pixels
        image_width=config_dict.placeholder(int),  # pixels; None: square images
        num_channels=1,  # 1 or 3
        batch_size=128,  # examples per step, over all devices
        flip=False,  # mirror images left to right with probability 1/2
    )


def text_data() -> ConfigDict:
    """Returns the group data of language models."""
    return config_dict.create(
        source="python_docs",  # see data.texts.make
        vocabulary="characters",  # or words, bytes, bpe
        vocabulary_size=1024,  # ids of bpe
        context=128,  # tokens that an example predicts
        packed=False,  # several short documents in one example
        held_out=0.1,  # share of the text that is split "test", [0, 1)
        train_split="train",
        batch_size=32,  # examples per step, over all devices
    )


def pair_data() -> ConfigDict:
    """Returns the group data of sequence to sequence."""
    return config_dict.create(
        source="reverse:6-12",  # see data.pairs.make
        vocabulary="characters",  # of the sources; or words, bytes, bpe
        target_vocabulary="characters",  # the same, of the targets
        vocabulary_size=1024,  # ids of bpe
        shared_vocabulary=False,  # one for sources and targets
        max_length=0,  # most tokens of a side; longer pairs are dropped; 0: no limit
        bucketed=False,  # pairs of similar length in a batch, with little padding
        held_out=0.1,  # share of the pairs that is split "test", [0, 1)
        train_split="train",
        batch_size=64,  # examples per step, over all devices
    )


def defaults(method: str, data: ConfigDict | None = None) -> ConfigDict:
    """Returns the groups that every family has: data, optim, train, sample, eval.

    Args:
      method: a name in methods.FAMILIES.
      data: the group data; that of images by default.
    """
    config = config_dict.create(name=method, seed=0, method=method)
    config.data = image_data() if data is None else data
    config.optim = config_dict.create(  # Adam, or AdamW
        learning_rate=1e-3,  # above 0
        warmup_steps=0,  # linear, from 0; 0: none
        decay="linear",  # or cosine: from decay_start to decay_end; or inverse_sqrt
        decay_start=config_dict.placeholder(int),  # step; None: after the warmup
        decay_end=config_dict.placeholder(int),  # num_steps or more; None: no decay
        decay_to=0.0,  # final learning rate, as a fraction of learning_rate
        b1=0.9,  # in [0, 1), as b2
        b2=0.999,
        eps=1e-8,  # above 0
        weight_decay=0.0,  # of matrices, times the learning rate; 0: none
        clip="none",  # of gradients: none, global, per_replica
        clip_norm=1.0,  # largest L2 norm, above 0
        ema_decay=0.0,  # of the averaged parameters, in [0, 1); 0: no average
        ema_warmup=True,  # whether the decay increases gradually
    )
    config.train = config_dict.create(
        num_steps=1000,  # at least 1
        accumulate=1,  # slices of a device's batch, computed in turn to save memory
        log_every=500,  # in steps; 0 means only at the end, also of save_every
        save_every=1000,
        keep=3,  # checkpoints, at least 1, besides the best one
        evaluate_every=0,  # in steps; 0 means never, also of sample_every
        sample_every=0,
        trackers="",  # wandb, mlflow or both with a comma, see docs/running.md
        profile="",  # START:STOP, the steps to trace, see docs; none: ""
        init_from="",  # GROUP=WORKDIR,...: copy groups of other runs at step 0
    )
    config.sample = config_dict.create(
        checkpoint="last",  # or best
        task="sample",  # one of the family's tasks
        num_examples=100,
        batch_size=100,
        animation=False,  # write a GIF as well
        seed=0,
    )
    config.eval = config_dict.create(
        checkpoint="last",  # or best
        metric="samples",  # a name in evaluators.EVALUATORS
        split="test",
        batch_size=256,
        classifier="",  # workdir of a trained classifier; none: ""
        sweep=config_dict.create(seed=()),  # values of group sample to try in turn
        seed=0,
    )
    return config


def add_caption_options(config: ConfigDict) -> None:
    """Adds the options of families that draw images of captions."""
    config.sample.update(
        prompt=config_dict.placeholder(str),  # captions, with | between; None: eval's
        num_candidates=1,  # samples per caption, of which scorer's best one is kept
        scorer="",  # workdir of a trained contrastive model; none: ""
    )
    config.eval.scorer = ""  # the same, for metric retrieval


def decay_over_second_half(config: ConfigDict) -> None:
    """Makes the learning rate decay to 0 over the second half of train.num_steps."""
    num_steps = config.train.get_oneway_ref("num_steps")
    config.optim.decay_start = num_steps // 2
    config.optim.decay_end = num_steps


def leave_open(config: ConfigDict, keys: str) -> None:
    """Leaves values to the plan that is made of the data; see `planning`.

    Args:
      config: of any family.
      keys: dotted, with spaces between them.
    """
    for key in keys.split():
        *groups, name = key.split(".")
        group = config
        for part in groups:
            group = group[part]
        group[name] = config_dict.placeholder(type(group[name]))


def make_tiny(config: ConfigDict) -> None:
    """Turns any config into a smoke test: four steps with batches of eight digits."""
    config.name += "_tiny"
    config.data.update(source="digits", image_size=8, num_channels=1)
    _make_short(config)


def make_tiny_text(config: ConfigDict) -> None:
    """Turns any config of text into a smoke test: four steps with batches of eight."""
    config.name += "_tiny"
    config.data.update(source="python_docs", vocabulary="characters", context=16)
    config.data.packed, config.sample.num_tokens = False, 8
    config.optim.warmup_steps = min(1, config.optim.warmup_steps)
    _make_short(config)


def make_tiny_pairs(config: ConfigDict) -> None:
    """Turns any config of pairs into a smoke test: four steps with batches of eight."""
    config.name += "_tiny"
    config.data.update(source="reverse:2-4", max_length=0, shared_vocabulary=False)
    config.data.update(vocabulary="characters", target_vocabulary="characters")
    config.optim.warmup_steps = min(1, config.optim.warmup_steps)
    _make_short(config)


def _make_short(config: ConfigDict) -> None:
    config.data.batch_size = 8
    config.data.train_split, config.eval.split = "train", "test"
    config.train.update(num_steps=4, log_every=2, save_every=2, evaluate_every=0)
    if config.train.sample_every:  # neither switched off nor left open
        config.train.sample_every = min(4, config.train.sample_every)
    config.sample.update(num_examples=16, batch_size=16)
    config.eval.update(batch_size=64, classifier="")


def select(
    config: ConfigDict,
    variant: str,
    tiny: Callable[[ConfigDict], None],
    others: str = "",
) -> ConfigDict:
    """Applies the variant after the colon in --config=configs/NAME.py:tiny.

    Args:
      config: the experiment.
      variant: "" or "tiny".
      tiny: turns the config into a smoke test.
      others: names of variants that the caller knows, for the message, with a comma.

    Raises:
      ValueError: there is no such variant.
    """
    if variant == "tiny":
        tiny(config)
    elif variant:
        raise ValueError(f"Unknown variant {variant!r}. Known: tiny{others}.")
    return config

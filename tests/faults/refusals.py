"""Commands that are refused."""

import shutil
import signal

import numpy as np
from harness import (
    END_WITHIN,
    LONG,
    LOOK_EVERY,
    Broken,
    Place,
    check,
    check_sentence,
    content,
    last_logged,
    saved_state,
    steps,
)

# The values or config that change -> a word of the sentence. Each is refused.
REFUSED = [
    ({"model.hidden": "(8,)"}, "model.hidden"),
    ({"model.num_latents": 5}, "model.num_latents"),
    ({"vae.beta": 2.0}, "vae.beta"),
    ({"train.num_steps": -5}, "train.num_steps"),
    ({"train.num_steps": "many"}, "train.num_steps"),
    ({"data.source": "tfds:no_such_data"}, "no_such_data"),
    ({"data.batch_size": 0}, "data.batch_size"),
    ({"eval.metric": "nonsense"}, "eval.metric"),
    ({"eval.split": "nonsense"}, "nonsense"),
    ({"sample.task": "nonsense"}, "nonsense"),
    ({"train.init_from": "net=no/such/run"}, "no/such/run"),
    ({"model.nonsense": 1}, "nonsense"),
    ("configs/digits_gan.py:tiny", "digits_vae_tiny"),
    ("configs/no_such.py", "no_such"),
]
FREE_ON_RESUME = ("no/such/run",)
FREE_IN_A_NEW_RUN = (
    "model.hidden",
    "model.num_latents",
    "vae.beta",
    "digits_vae_tiny",
)
GAN = "configs/digits_gan.py:tiny"


def nothing_is_written(place: Place) -> str:
    """a refused command leaves every byte of the workdir, and makes no new one"""
    workdir, nowhere = place.partly_trained("refused"), place.new("nowhere")
    before, wrong = content(workdir), []
    for changed, word in REFUSED:
        is_config = isinstance(changed, str)
        options = {"config": changed} if is_config else {"values": changed}
        folders = [workdir] if word in FREE_IN_A_NEW_RUN else [workdir, nowhere]
        for folder in [nowhere] if word in FREE_ON_RESUME else folders:
            try:
                ended = place.start(folder, **options).finish(END_WITHIN)
                check_sentence(ended, (2,), word)
                check(content(workdir) == before, "something was written")
                check(not nowhere.exists(), "a new workdir was made")
            except Broken as found:
                wrong.append(f"{changed} in {folder.name}: {found}")
                shutil.rmtree(workdir)
                workdir = place.partly_trained("refused")
                shutil.rmtree(nowhere, ignore_errors=True)
    check(not wrong, "; ".join(wrong))
    return f"{len(REFUSED)} refused, every byte is as before"


def new_schedule(place: Place) -> str:
    """a new schedule on resume is carried over, and said; sampling works after it"""
    workdir = place.new("schedule")
    options = {"config": GAN, "values": {"train.num_steps": 4}}
    done = place.run(workdir, **options)
    check(done.code == 0, done.summary)
    values = {"train.num_steps": 8, "optim.decay_start": 4, "optim.decay_end": 8}
    done = place.run(workdir, config=GAN, values=values)
    check(done.code == 0, done.summary)
    check("optim.decay_end" in done.stdout, "the change is not said")
    sampled = place.run(workdir, "--mode=sample", config=GAN)
    check(sampled.code == 0, f"sample: {sampled.summary}")
    line = next(x for x in done.stdout.splitlines() if "optim.decay_end" in x)
    return line


def optimiser_of_another_shape(place: Place) -> str:
    """a checkpoint that the new config cannot take: the keys that differ are named"""
    workdir = place.partly_trained("mismatch")
    path = workdir / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"num_latents": 3', '"num_latents": 4'))
    check(path.read_text() != text, "the config has another form")
    before = content(workdir)
    for mode in ("train", "sample"):
        ended = place.start(workdir, f"--mode={mode}").finish(END_WITHIN)
        check_sentence(ended, (2,), "does not match the config")
    check(content(workdir) == before, "something was written")
    return ended.summary


def odd_save_every(place: Place) -> str:
    """save_every = 0 or -1: the last state is saved, or the command is refused"""
    seen = []
    for every in (0, -1, -(10**12)):
        workdir = place.new("save-every")
        values = {"train.save_every": every, "train.num_steps": 25}
        ended = place.run(workdir, values=values)
        if ended.code == 2:
            check_sentence(ended, (2,), "train.save_every")
            check(not workdir.exists(), "it was refused after it had written")
        else:
            check(ended.code == 0, ended.summary)
            check(steps(workdir) == [25], f"{every}: saved {steps(workdir)}")
        seen.append(f"{every}: {'refused' if ended.code else 'saved 25'}")
    return ", ".join(seen)


def stop_without_saves(place: Place) -> str:
    """a signal saves the last step also with save_every = 0"""
    workdir = place.new("no-saves")
    values = {"train.save_every": 0, "train.evaluate_every": 0, "train.sample_every": 0}
    process = place.start(workdir, values=LONG | values)
    process.wait_until(lambda: last_logged(workdir) > LOOK_EVERY)
    process.send(signal.SIGINT)
    ended = process.finish(END_WITHIN)
    check(ended.code == 0, ended.summary)
    check(steps(workdir) == [last_logged(workdir)], f"saved {steps(workdir)}")
    return f"step {steps(workdir)[0]} is saved"


def made_longer(place: Place) -> str:
    """a finished run made longer by train.num_steps alone trains on, or is refused

    Its learning rate has decayed to 0: without a new schedule the weights would stay.
    """
    workdir = place.new("longer")
    config, key = "configs/digits_vae.py:tiny", "train.num_steps"
    done = place.run(workdir, config=f"./{config}", values={key: 20})
    check(done.code == 0, done.summary)
    before = saved_state(workdir)
    ended = place.run(workdir, config=f"./{config}", values={key: 40})
    if ended.code:
        check_sentence(ended, (2,), "optim.decay_end")
        return ended.summary
    after = saved_state(workdir)
    check(after[".step"] == 40, f"step {after['.step']}")
    changed = [x for x in after if x.startswith(".params")]
    change = max(np.abs(after[x] - before[x]).max() for x in changed)
    check(change > 1e-4, f"the parameters changed by {change:.0e} only: the rate is 0")
    return f"the parameters changed by {change:.0e}"


def far_too_few_steps(place: Place) -> str:
    """fewer steps than the run has: nothing is trained, nothing is lost"""
    workdir = place.partly_trained("few")
    log = (workdir / "metrics.jsonl").read_bytes()
    ended = place.run(workdir, values={"train.num_steps": 5})
    check(ended.code in (0, 2), ended.summary)
    check(max(steps(workdir)) == LOOK_EVERY, f"saved {steps(workdir)}")
    check((workdir / "metrics.jsonl").read_bytes() == log, "the log has changed")
    return f"exit code {ended.code}"


FAULTS = {
    "refusals": nothing_is_written,
    "new_schedule": new_schedule,
    "other_weights": optimiser_of_another_shape,
    "odd_save_every": odd_save_every,
    "stop_without_saves": stop_without_saves,
    "made_longer": made_longer,
    "too_few_steps": far_too_few_steps,
}

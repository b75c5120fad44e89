"""Files of a run that are damaged or missing."""

import json
import shutil

from harness import (
    END_WITHIN,
    LOOK_EVERY,
    Place,
    check,
    check_same_end,
    check_sentence,
    content,
    records,
    steps,
)

MODES = ("train", "sample", "evaluate")


def config_file(place: Place) -> str:
    """config.json empty, cut short, a list, null or missing: named, and what to do"""
    workdir = place.partly_trained("config")
    path = workdir / "config.json"
    whole = path.read_bytes()
    damaged = [
        b"[" * 100_000,
        b"",
        whole[:100],
        b"[1, 2]",
        b"null",
        b"{}",
        b'{"name": 1}',
        b"\xff\xfe",
    ]
    for mode, text in [(m, x) for x in [*damaged, None] for m in MODES[:2]]:
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_bytes(text)
        before = content(workdir)
        ended = place.start(workdir, f"--mode={mode}").finish(END_WITHIN)
        check_sentence(ended, (2,), str(path), "--mode=config >")
        check(content(workdir) == before, f"{text}: something was written")
    path.unlink(missing_ok=True)
    shown = place.run(workdir, "--mode=config")  # as the sentence says
    path.write_text(shown.stdout)
    done = place.run(workdir)
    check(done.code == 0, f"with the config written again: {done.summary}")
    check_same_end(workdir, place.calm)
    return f"{ended.summary}; written again, it goes on"


def fields_file(place: Place) -> str:
    """fields.json damaged: named by sample; missing: train writes it again"""
    workdir = place.partly_trained("fields")
    path = workdir / "fields.json"
    fields = json.loads(path.read_bytes())
    name = next(iter(fields))
    shape = {name: fields[name] | {"shape": 3}}
    dtype = {name: fields[name] | {"dtype": "picture"}}
    other = {name: {"dtype": "float32"}}
    damaged = ["", "[]", "{", '{"image": 3}', *map(json.dumps, (shape, dtype, other))]
    for text in damaged:
        path.write_text(text)
        ended = place.start(workdir, "--mode=sample").finish(END_WITHIN)
        check_sentence(ended, (2,), str(path))
    path.unlink()
    done = place.run(workdir)
    check(done.code == 0, f"missing: {done.summary}")
    check(path.exists(), "fields.json was not written again")
    check_same_end(workdir, place.calm)
    return f"{ended.summary}; missing: written again"


def flipped_byte(place: Place) -> str:
    """a byte flipped in the newest checkpoint: set aside, the one before is used"""
    workdir = place.partly_trained("flipped")
    newest = workdir / "checkpoints" / str(steps(workdir)[-1])
    file = max(newest.glob("state/**/d/*"), key=lambda x: x.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    before = content(workdir)
    sampled = place.run(workdir, "--mode=sample", f"--output={place.new('output')}")
    check(sampled.code == 0, f"sample: {sampled.summary}")
    check(content(workdir) == before, "sample has changed the run")
    done = place.run(workdir)
    check(done.code == 0, done.summary)
    check("Damaged checkpoint" in done.stdout, "the damage is not named")
    aside = [x.name for x in workdir.glob("checkpoints/damaged-*")]
    check(aside, "the damaged checkpoint is not kept")
    check_same_end(workdir, place.calm)
    return f"{aside[0]} is kept, the end is equal"


def every_checkpoint(place: Place) -> str:
    """every checkpoint damaged: a sentence, nothing is trained or erased"""
    workdir = place.partly_trained("all-damaged")
    for file in workdir.glob("checkpoints/*/state/**/d/*"):
        file.write_bytes(b"")
    log = records(workdir)
    for _ in range(2):
        ended = place.start(workdir).finish(END_WITHIN)
        check(ended.code == 1, ended.summary)
        check("Traceback" not in ended.stderr + ended.stdout, ended.stderr[-300:])
        check("None of the checkpoints" in ended.stderr, ended.stderr[-300:])
        check(records(workdir) == log, "the log was changed")
    return ended.summary


def score_file(place: Place) -> str:
    """score.json damaged: named, evaluated again, and no record is there twice"""
    workdir = place.partly_trained("score")
    for text in ("", "[]", '{"value": "x"}', '{"value": 1.0, "settings": 3}'):
        path = workdir / f"checkpoints/{LOOK_EVERY}/score.json"
        path.write_text(text)
        done = place.run(workdir, values={"train.num_steps": LOOK_EVERY})
        check(done.code == 0, f"{text!r}: {done.summary}")
        check("score.json" in done.stdout, f"{text!r}: the damage is not named")
        check(json.loads(path.read_text())["settings"], "it has no score again")
    done = place.run(workdir)
    check(done.code == 0, done.summary)
    check_same_end(workdir, place.calm)
    return "named, evaluated again, the end is equal"


def metrics_lines(place: Place) -> str:
    """metrics.jsonl with lines that are no JSON, UTF-8 or objects: dropped, counted"""
    workdir = place.partly_trained("lines")
    path = workdir / "metrics.jsonl"
    whole = path.read_bytes()
    bad = [b"\xff\xfe", b"[1]", b"3", b"null", b"{", b"", b'{"step": "x"}', b'"step"']
    bad += [b'{"step": null}', b'{"step": true}', b"[" * 100_000, b'{"step": 1e400}']
    path.write_bytes(b"\n".join(bad) + b"\n" + whole + bad[0] + b"\n" + b'{"step": 4')
    done = place.run(workdir)
    check(done.code == 0, done.summary)
    check("cannot be read" in done.stdout, "the lines are not counted")
    check_same_end(workdir, place.calm)
    line = next(x for x in done.stdout.splitlines() if "cannot be read" in x)
    return line


def checkpoints_moved_away(place: Place) -> str:
    """checkpoints/ missing while metrics exist: set aside; nothing is erased"""
    workdir = place.partly_trained("moved")
    log = (workdir / "metrics.jsonl").read_bytes()
    for number in (1, 2):
        shutil.rmtree(workdir / "checkpoints")
        done = place.run(workdir, values={"train.num_steps": LOOK_EVERY})
        check(done.code == 0, done.summary)
        kept = workdir / f"logs-before-{number}" / "metrics.jsonl"
        check(kept.exists(), "the log was not set aside")
        check("logs-before" in done.stdout, "nothing is said")
        if number == 1:
            check(kept.read_bytes() == log, "the log that is kept has changed")
        steps_kept = [x["step"] for x in records(kept.parent)]
        check(max(steps_kept) == LOOK_EVERY, "the log that is kept is cut")
    done = place.run(workdir)
    check(done.code == 0, done.summary)
    check_same_end(workdir, place.calm)
    return "logs-before-1 and -2 have the earlier logs"


FAULTS = {
    "damaged_config": config_file,
    "damaged_fields": fields_file,
    "flipped_byte": flipped_byte,
    "damaged_checkpoints": every_checkpoint,
    "damaged_score": score_file,
    "damaged_metrics": metrics_lines,
    "checkpoints_moved": checkpoints_moved_away,
}

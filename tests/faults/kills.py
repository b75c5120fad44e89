"""kill -9 at random moments."""

import collections
import signal

import moments
from harness import Place, check, check_same_end


def ten_kills(place: Place) -> str:
    """ten kill -9 in a row lose nothing: state and log equal an undisturbed run's

    At random moments: starting, before the first checkpoint, during a save, while
    evaluating and drawing, and anywhere else. Every leaf is equal bit for bit, and
    metrics.jsonl has every line once.
    """
    workdir = place.new("kills")
    hit = collections.Counter()
    for moment in moments.ten(place):
        process = place.start(workdir)
        if moments.await_moment(place, process, workdir, moment):
            process.send(signal.SIGKILL)
            hit[moment] += 1
        ended = process.finish()
        check(ended.code in (0, -signal.SIGKILL), ended.summary)
    ended = place.run(workdir)
    check(ended.code == 0, ended.summary)
    check_same_end(workdir, place.calm)
    check(hit.total() == 10, f"only {hit.total()} kills: the run is too short")
    return "equal after " + ", ".join(f"{n} {name}" for name, n in hit.items())

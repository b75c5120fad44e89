"""Bits per dimension of a data set, and what they buy."""

import csv
import math
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

TERMS = ("prior", "transitions", "decoder")  # L_T, sum of L_{t-1}, L_0
COLUMNS = ("reverse_step", "time", "rate", "distortion")
GREYS = 127.5  # levels in a unit of an image in [-1, 1]


def bits_per_dim(
    evaluate: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    batches: Iterable[dict[str, np.ndarray]],
) -> dict[str, float]:
    """Averages the variational bound and its three parts over a data set.

        bits/dim = nats / (H W C log 2)

    Args:
      evaluate: batch -> nats of each example, f32[B], by the names of TERMS.
      batches: with image [B,H,W,C] and weight [B], 0 for examples that only fill up.

    Returns:
      bits_per_dim, its parts by name, the standard error of bits_per_dim over the
      images (it covers the drawn noise and times), and num_examples.

    Raises:
      ValueError: there are no examples.

    Source: Ho et al. 2020, equation 5 and table 1, arXiv:2006.11239.
    """
    rows = []
    for batch in batches:
        nats = evaluate(batch)
        parts = np.stack([nats[name] for name in TERMS], axis=1).astype(np.float64)
        bits = parts / (math.prod(batch["image"].shape[1:]) * math.log(2))
        rows.append(bits[batch["weight"] > 0])
    if not rows:
        raise ValueError("There are no examples to measure bits/dim on.")
    parts = np.concatenate(rows)
    totals = parts.sum(axis=1)
    return {
        "bits_per_dim": float(totals.mean()),
        **dict(zip(TERMS, parts.mean(axis=0).tolist(), strict=True)),
        "standard_error": float(totals.std() / math.sqrt(len(totals))),
        "num_examples": len(totals),
    }


def rate_distortion(
    evaluate: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    batches: Iterable[dict[str, np.ndarray]],
    num_timesteps: int,
) -> dict[str, np.ndarray]:
    """How good a picture is after so many bits: progressive lossy compression.

    A receiver who has x_t was sent the prior and the transitions to t, and shows the
    predicted x_0:

        rate(t) = L_T + sum of L_{u-1} over u > t,  distortion(t) = RMSE of x_0_hat(x_t)

    With T - 1 strata there is a row for every time. With fewer, a row estimates the
    means of time, rate and squared error over a stratum of times; unbiased where their
    number divides T - 1, and but for its rounded ends elsewhere.

    Args:
      evaluate: batch -> of each example "prior", "transitions" and "error" (that of
        x_1) f32[B], and "strata": "nats" of a stratum, the "time" drawn in it and
        "error" there, [B, k]; stratum j of the times 2..T from the earliest on.
      batches: with image [B,H,W,C] and weight [B], 0 for examples that only fill up.
      num_timesteps: T.

    Returns:
      f64[k + 1] by the names of COLUMNS, noisiest first, the last row of time 1:
      reverse_step is T - t + 1, rate is in bits/dim, distortion on the scale 0..255.

    Raises:
      ValueError: there are no examples.

    Source: Ho et al. 2020, section 4.3, figure 5 and table 4, arXiv:2006.11239.
    """
    count, total = 0, 0.0
    for batch in batches:
        rows = _rows(evaluate(batch), num_timesteps)[batch["weight"] > 0]
        size = math.prod(batch["image"].shape[1:])
        count, total = count + len(rows), total + rows.sum(axis=0)
    if not count:
        raise ValueError("There are no examples to measure rate and distortion on.")
    time, nats, error = (total / count)[::-1].T
    return {
        "reverse_step": num_timesteps - time + 1,
        "time": time,
        "rate": nats / (size * math.log(2)),
        "distortion": np.sqrt(error) * GREYS,
    }


def _rows(measured: dict, num_timesteps: int) -> np.ndarray:
    """Time, nats so far and squared error, f64[B, k + 1, 3], of time 1 first."""
    strata = {key: x.astype(np.float64) for key, x in measured["strata"].items()}
    nats, time = strata["nats"], strata["time"]
    width = (num_timesteps - 1) / nats.shape[1]
    # A time u of a stratum counts for those times t of it that lie below u.
    earlier = time - 2 - width * np.arange(nats.shape[1])
    share = np.clip(earlier / width, 0.0, 1.0)
    prior = measured["prior"].astype(np.float64)[:, None]
    after = np.cumsum(nats[:, ::-1], axis=1)[:, ::-1]  # of this stratum and later ones
    so_far = prior + after - (1 - share) * nats
    first = [np.ones_like(prior), prior + after[:, :1], measured["error"][:, None]]
    rest = [time, so_far, strata["error"]]
    columns = [np.concatenate(pair, axis=1) for pair in zip(first, rest, strict=True)]
    return np.stack(columns, axis=2)


def write_csv(path: pathlib.Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns of one length, with their names in the first line."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(x.tolist() for x in columns.values()), strict=True))


def density_bits_per_dim(
    log_density: Callable[[dict[str, np.ndarray]], np.ndarray],
    batches: Iterable[dict[str, np.ndarray]],
) -> dict[str, float]:
    """Averages what a density of dequantised pictures says of 8-bit ones.

        bits/dim = -log p(x) / (D log 2) + log2(127.5)

    The last term is the width of a bin, 1/127.5. On the mean over the place in the bin
    it bounds the 8-bit picture's own bits/dim from above.

    Args:
      log_density: batch -> nats of each example, f32[B], of x in [-1, 1] spread over
        its bins.
      batches: as for `bits_per_dim`.

    Returns:
      bits_per_dim, its standard error over the images, and num_examples.

    Raises:
      ValueError: there are no examples.

    Source: Theis et al. 2016, section 3.1, arXiv:1511.01844.
    """
    bits = []
    for batch in batches:
        size = math.prod(batch["image"].shape[1:])
        nats = log_density(batch).astype(np.float64)[batch["weight"] > 0]
        bits.append(-nats / (size * math.log(2)) + math.log2(GREYS))
    if not bits:
        raise ValueError("There are no examples to measure bits/dim on.")
    totals = np.concatenate(bits)
    return {
        "bits_per_dim": float(totals.mean()),
        "standard_error": float(totals.std() / math.sqrt(len(totals))),
        "num_examples": len(totals),
    }

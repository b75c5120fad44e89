"""Bits per dimension of a data set."""

import math
from collections.abc import Callable, Iterable

import numpy as np

TERMS = ("prior", "transitions", "decoder")  # L_T, sum of L_{t-1}, L_0


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

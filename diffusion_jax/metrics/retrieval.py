"""Retrieval: how often an embedding is nearest to the one that belongs to it."""

import numpy as np


def groups_of_different(captions: np.ndarray, size: int, num_groups: int) -> np.ndarray:
    """Draws random groups of examples, no two of which have the same caption.

    Args:
      captions: integers [N, L].
      size: n, examples in a group; at most the number of different captions.
      num_groups: G.

    Returns:
      Indices of examples, [G, n].

    Raises:
      ValueError: there are fewer than n different captions.
    """
    _, kinds = np.unique(captions, axis=0, return_inverse=True)
    if kinds.max() + 1 < size:
        raise ValueError(
            f"There are {kinds.max() + 1} different captions, fewer than {size}: use "
            "smaller groups, or more examples."
        )
    draws, groups = np.random.default_rng(0), []
    for _ in range(num_groups):
        order = draws.permutation(len(captions))
        _, first = np.unique(kinds[order], return_index=True)
        groups.append(order[draws.permutation(first)[:size]])
    return np.stack(groups)


def recall_at_1(queries: np.ndarray, keys: np.ndarray, groups: np.ndarray) -> float:
    """Computes how often a query is most similar to its own key, within its group.

    Similarity is the inner product. A key that others tie with is not counted.

    Args:
      queries: [N, E].
      keys: [N, E]; key i belongs to query i.
      groups: indices [G, n].

    Returns:
      The share of the G n choices that are right; by chance 1 / n.
    """
    similar = np.einsum("gie,gje->gij", queries[groups], keys[groups])
    own = np.diagonal(similar, axis1=1, axis2=2)
    return float(np.mean(np.sum(similar >= own[..., None], axis=2) == 1))

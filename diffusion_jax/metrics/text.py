"""How far texts are from reference texts: errors of tokens, exact match, BLEU."""

import types
from collections.abc import Hashable, Sequence

import numpy as np

Tokens = Sequence[Hashable]


def edit_distance(a: Tokens, b: Tokens) -> int:
    """Counts the insertions, deletions and substitutions that turn a into b.

        d(i, j) = min(d(i-1, j) + 1, d(i, j-1) + 1, d(i-1, j-1) + [a_i != b_j])

    Source: Levenshtein 1966; the table is Wagner and Fischer 1974,
    doi:10.1145/321796.321811.
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
            diagonal, row[j] = row[j], cost
    return row[-1]


def error_rates(
    predicted: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares each prediction with the nearest of its references.

    The rate of token errors is errors.sum() / lengths.sum(): of phonemes, characters or
    words, as the tokens are. A reference is nearer if it has fewer errors, and of two
    with as many, if it is longer.

    Args:
      predicted: N sequences.
      references: of each, at least one.

    Returns:
      exact, bool [N], whether a prediction equals a reference; errors, int [N], the
      edit distance to the nearest reference; lengths, int [N], of that reference.
    """
    nearest = [
        min((edit_distance(found, x), -len(x)) for x in allowed)
        for found, allowed in zip(predicted, references, strict=True)
    ]
    errors, lengths = np.array(nearest).reshape(-1, 2).T
    return errors == 0, errors, -lengths


def mean_by(values: np.ndarray, groups: np.ndarray) -> dict[int, float]:
    """Returns the mean of the values, [N], of each group, int [N], in rising order."""
    return {int(g): float(values[groups == g].mean()) for g in np.unique(groups)}


def bleu(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Computes the BLEU of a corpus, in percent, with the tokens of "13a".

    Args:
      predicted: N texts.
      references: of each, at least one.

    Raises:
      ModuleNotFoundError: the package sacrebleu is missing.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018,
    arXiv:1804.08771.
    """
    most = max(map(len, references))
    columns = [[x[i] if i < len(x) else None for x in references] for i in range(most)]
    return import_sacrebleu().corpus_bleu(list(predicted), columns).score


def import_sacrebleu() -> types.ModuleType:
    """Imports the package that computes BLEU.

    Raises:
      ModuleNotFoundError: it is missing; the message says how to install it.
    """
    try:
        import sacrebleu
    except ModuleNotFoundError as error:
        error.msg = (
            "BLEU needs the package sacrebleu: pip install 'diffusion_jax[text]'."
        )
        raise
    return sacrebleu

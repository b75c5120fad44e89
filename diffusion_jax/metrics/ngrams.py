"""N-gram models of tokens, the baselines of a language model."""

import numpy as np

from diffusion_jax.special_tokens import PAD


def interpolated_nats(
    train: np.ndarray, test: np.ndarray, vocabulary_size: int, max_order: int
) -> np.ndarray:
    """Computes -log p of tokens under n-gram models with Witten-Bell interpolation.

        p_n(w | h) = (c(h w) + d(h) p_{n-1}(w | h')) / (c(h) + d(h)),  p_0(w) = 1/(V-1)

    h are the n - 1 tokens before w, and h' is h without its first; c counts in the
    training tokens, and d(h) is the number of different tokens after h there. Where h
    does not occur, p_n is p_{n-1}. Nothing is tuned. Padding is not part of any text:
    histories end there, and it is not predicted, nor is the first token after it.

    Args:
      train: i32[N], documents with padding between them.
      test: i32[M], the same.
      vocabulary_size: V, with padding.
      max_order: the largest n, at least 0.

    Returns:
      f64[max_order + 1, number of predicted tokens of test]; row n is -log p_n.

    Source: Witten and Bell 1991, doi:10.1109/18.87000, method C, interpolated as in
    Chen and Goodman 1998, section 2.6 (TR-10-98).
    """
    pad = np.array([PAD])
    tokens = np.concatenate([pad, train, pad, test]).astype(np.int64)
    before = np.concatenate([pad, tokens[:-1]])
    predicted = (tokens != PAD) & (before != PAD)
    is_test = np.arange(len(tokens)) >= len(tokens) - len(test)
    fit, evaluated = predicted & ~is_test, predicted & is_test

    p = np.full(np.sum(evaluated), 1 / (vocabulary_size - 1))
    nats = [-np.log(p)]
    history = np.zeros(len(tokens), np.int64)  # a number for the n - 1 tokens before
    for _ in range(max_order):
        keys = np.where(tokens == PAD, 0, history * vocabulary_size + tokens)
        _, gram = np.unique(keys, return_inverse=True)  # a number for these n tokens
        counts = np.bincount(gram[fit], minlength=len(tokens))
        _, first = np.unique(gram[fit], return_index=True)
        total = np.bincount(history[fit], minlength=len(tokens))[history[evaluated]]
        different = np.bincount(history[fit][first], minlength=len(tokens))
        different = different[history[evaluated]]
        mixed = counts[gram[evaluated]] + different * p
        p = np.where(total > 0, mixed / np.maximum(total + different, 1), p)
        nats.append(-np.log(p))
        history = np.concatenate([pad, gram[:-1]])
    return np.stack(nats)

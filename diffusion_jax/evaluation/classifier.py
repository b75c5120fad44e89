"""A small classifier of real pictures, asked what it makes of drawn ones."""

from typing import Any

import numpy as np

CONFIDENT = 0.9
MOST_IMAGES = 10_000  # to train on: a minute for pictures of 28x28


def train_classifier(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Any:
    """Trains one hidden layer of 512 units on the pixels of real pictures.

    Args:
      images: [N, ...] in [0, 1]; of more than 10,000, as many are drawn.
      labels: i32[N].
      seed: of its initialisation and order.

    Returns:
      A fitted classifier of scikit-learn.

    Raises:
      ValueError: there are fewer than two classes.
    """
    if len(images) > MOST_IMAGES:
        chosen = np.random.default_rng(seed).choice(len(images), MOST_IMAGES, False)
        images, labels = images[chosen], labels[chosen]
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "A classifier needs pictures of at least two classes, but every label is "
            f"{labels[0]}: choose data with labels, or another eval.measure."
        )
    from sklearn.neural_network import MLPClassifier  # seconds, and needed here alone
    from threadpoolctl import threadpool_limits

    classifier = MLPClassifier((512,), max_iter=300, random_state=seed)
    with threadpool_limits(1):  # on matrices this small, threads only wait
        flat = images.reshape(len(images), -1)
        return classifier.fit(flat, labels)


def confident_share(
    classifier: Any, images: np.ndarray
) -> tuple[float, dict[int, int]]:
    """Returns the share of images named with confidence > 0.9, and a histogram.

    Args:
      classifier: from `train_classifier`.
      images: [N, ...] in [0, 1].

    Returns:
      The share in [0, 1], and how many of the images were called each class.
    """
    probabilities = classifier.predict_proba(images.reshape(len(images), -1))
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    histogram = dict(zip(classifier.classes_.tolist(), counts.tolist(), strict=True))
    return float(np.mean(probabilities.max(axis=1) > CONFIDENT)), histogram


def named_as_asked(classifier: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of images [N, ...] that are called their label i32[N]."""
    return float(classifier.score(images.reshape(len(images), -1), labels))

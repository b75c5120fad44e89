"""The accuracy of a classifier, of one label or of several."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import inference, methods, run_data
from diffusion_jax.data.base import NONE, SECOND, Field
from diffusion_jax.evaluators.base import Evaluator, Record, over_held_out
from diffusion_jax.methods import classifier
from diffusion_jax.training.state import Variables


def accuracies(
    predicted: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    fields: Mapping[str, Field],
) -> dict[str, float]:
    """Returns the share of right predictions of each label, and of several together.

        ""                         of `label`
        " of NAME"                 of another label
        " of NAME, both objects"   of the labels NAME and NAME_2 together
        " of all labels"           of examples in which all labels are right

    A label of an object that is not there, NAME_2 with the class "none", counts only in
    the last one, where an object that should not be there makes an example wrong.

    Args:
      predicted: i[N] by label.
      labels: i[N] by label, for all that are predicted.
      fields: of the labels.

    Returns:
      Shares in [0, 1]; there is none of labels that have no value in any example.
    """
    right = {name: x == labels[name] for name, x in predicted.items()}
    shares, of_objects = {}, {}
    for name, x in right.items():
        field = fields[name]
        if name.endswith(SECOND) and NONE in field.names:
            x = x[labels[name] != field.names.index(NONE)]
        shares["" if name == "label" else f" of {name}"] = x
        of_objects.setdefault(name.removesuffix(SECOND), []).append(x)
    for name, parts in of_objects.items():
        if len(parts) > 1:
            shares[f" of {name}, both objects"] = np.concatenate(parts)
    if len(right) > 1:
        shares[" of all labels"] = np.all([*right.values()], axis=0)
    return {name: float(x.mean()) for name, x in shares.items() if len(x)}


def make_accuracy(
    config: ConfigDict, method: methods.Method, workdir: pathlib.Path
) -> Evaluator:
    """Makes an evaluator of the classification error of `label` on eval.split.

    The accuracies of further labels are reported as well, see `accuracies`.
    """
    classify = over_held_out(config, method, "classify")
    fields = run_data.open_held_out(config).fields
    labels = [*method.classes]
    names = *labels, *(classifier.output_name("probabilities", x) for x in labels)

    def evaluate(variables: Variables) -> Iterator[Record]:
        rows = inference.collect(classify(variables), *names)
        predicted = classifier.predictions(rows, labels)
        found = {
            f"accuracy{x}": y for x, y in accuracies(predicted, rows, fields).items()
        }
        settings = {"split": config.eval.split, "num_examples": len(rows["label"])}
        yield Record({"error": 1 - found["accuracy"], **found}, settings)

    return evaluate

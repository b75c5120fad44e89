r"""A blind test of text to image: which of ten captions belongs to a picture?

    python -m diffusion_jax.main --config=configs/emoji_dalle.py --mode=sample \
        --config.eval.split=unseen --config.sample.num_examples=80
    python examples/blind_test.py runs/emoji_dalle --split=unseen
    python examples/blind_test.py runs/emoji_dalle --split=unseen --answers="3 0 7 ..."

The first command of the example writes blind_test.png: drawn pictures, from sample.npz
and sample.txt of the run, and as many real ones of the split, in random order and with
ten captions each. Somebody who has seen neither answers with the number of a caption
for each picture, and the second command prints the shares of right answers; it needs
the same --split, --num, --seed and sample.npz.
"""

import argparse
import json
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from diffusion_jax.data import sources

NUM_CAPTIONS = 10
COLUMNS = 4


def real_pictures(
    run: pathlib.Path, split: str, num: int, seed: int
) -> tuple[np.ndarray, list]:
    """Returns pictures of a split, u8[num, H, W, C], and their captions."""
    data = json.loads((run / "config.json").read_text())["data"]
    size = data["image_size"], data["image_width"] or data["image_size"]
    same = [data[key] for key in ("data_dir", "background", "held_out", "on_error")]
    source = sources.make(data["source"], split, size, data["num_channels"], *same)
    chosen = np.random.default_rng(seed).permutation(len(source))[:num]
    batch = source.read(np.sort(chosen))
    vocabulary = source.fields["caption"].vocabulary
    return batch["image"], [vocabulary.decode(row) for row in batch["caption"]]


def drawn_pictures(run: pathlib.Path, num: int, seed: int) -> tuple[np.ndarray, list]:
    """Returns pictures of sample.npz, u8[num, H, W, C], and their captions."""
    captions = (run / "sample.txt").read_text(encoding="utf-8").splitlines()
    chosen = np.random.default_rng(seed).permutation(len(captions))[:num]
    with np.load(run / "sample.npz") as arrays:
        return arrays["image"][chosen], [captions[i] for i in chosen]


def questions(
    captions: Sequence[str], seed: int
) -> tuple[np.ndarray, list[list[str]], list[int]]:
    """Returns a random order of pictures, ten captions for each, and the right ones.

    Raises:
      ValueError: there are fewer than ten different captions.
    """
    rng, known = np.random.default_rng(seed), sorted(set(captions))
    if len(known) < NUM_CAPTIONS:
        raise ValueError(f"There are fewer than {NUM_CAPTIONS} different captions.")
    order, choices, right = rng.permutation(len(captions)), [], []
    for i in order:
        others = [caption for caption in known if caption != captions[i]]
        options = [*rng.choice(others, NUM_CAPTIONS - 1, replace=False), captions[i]]
        places = rng.permutation(NUM_CAPTIONS)
        choices.append([options[place] for place in places])
        right.append(int(np.argmax(places)))  # the right one is the last option
    return order, choices, right


def save_sheet(
    path: pathlib.Path, images: np.ndarray, choices: list[list[str]]
) -> None:
    """Writes numbered pictures with their captions."""
    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * COLUMNS, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for number, (image, options) in enumerate(zip(images, choices, strict=True)):
        row, column = divmod(number, COLUMNS)
        picture, words = grid[row, 2 * column : 2 * column + 2]
        picture.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        picture.set_title(f"picture {number + 1}", fontsize=8)
        lines = [textwrap.shorten(f"{i}: {text}", 38) for i, text in enumerate(options)]
        words.text(0, 1, "\n".join(lines), fontsize=7, va="top")
    figure.savefig(path, dpi=110)


def main(run: pathlib.Path, split: str, num: int, seed: int, answers: str) -> None:
    """Writes the sheet, or scores the answers."""
    drawn, of_drawn = drawn_pictures(run, num, seed)
    real, of_real = real_pictures(run, split, num, seed)
    order, choices, right = questions([*of_drawn, *of_real], seed)
    if not answers:
        images = np.concatenate([drawn, real])[order]
        save_sheet(run / "blind_test.png", images, choices)
        print(f"Wrote {run / 'blind_test.png'}.")
        return
    given = [int(answer) for answer in answers.split()]
    if len(given) != len(right):
        raise SystemExit(f"{len(given)} answers to {len(right)} pictures.")
    hits = np.equal(given, right)
    for name, chosen in (("drawn", order < len(drawn)), ("real", order >= len(drawn))):
        print(f"{name}: {hits[chosen].sum()} of {chosen.sum()} right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="folder of the run")
    parser.add_argument("--split", default="test", help="of the real pictures")
    parser.add_argument("--num", type=int, default=40, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", default="", help="numbers with spaces between")
    arguments = parser.parse_args()
    main(**vars(arguments))

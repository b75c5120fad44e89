"""Parts of a self-contained HTML page: text, tables, pictures, sliders."""

import base64
import html
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
       max-width: 52rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; padding-bottom: .2rem; }
img, svg { max-width: 100%; height: auto; }
img, svg { background: #fff; }
figure { margin: 1rem 0; }
figcaption { color: #888; }
figure.slider { width: fit-content; max-width: 100%; }
input[type=range] { width: 100%; display: block; }
.slides > img { display: none; }
.slides > img.shown { display: block; }
.curves { display: grid; gap: .5rem;
          grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
         border-bottom: 1px solid #8883; }
.metrics td:nth-child(2) { white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (max-width: 40rem) {
  .metrics tr:first-child { display: none; }
  .metrics tr { display: flex; flex-wrap: wrap; border-bottom: 1px solid #8883; }
  .metrics td { border: 0; }
  .metrics td:first-child { font-weight: 600; }
  .metrics td:last-child { flex-basis: 100%; color: #888; padding-top: 0; }
}
td { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .7rem;
      background: #8882; border-radius: .4rem; }
"""

SCRIPT = """
for (const figure of document.querySelectorAll("figure.slider")) {
  const slides = figure.querySelectorAll(".slides > img");
  const input = figure.querySelector("input"), label = figure.querySelector("output");
  const show = () => {
    slides.forEach((image, i) => image.classList.toggle("shown", i == input.value));
    label.value = slides[input.value].alt;
  };
  input.addEventListener("input", show);
  show();
}
"""


class Slide(NamedTuple):
    """A picture and what it shows.

    Attributes:
      data: bytes of a PNG.
      alt: what it shows, also the label below the slider.
    """

    data: bytes
    alt: str


def text(value: object) -> str:
    """Escapes a text."""
    return html.escape(str(value))


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Returns a page.

    Args:
      title: plain text.
      sections: headings, as plain text, and their contents; empty ones are left out.
    """
    parts = [f"<section><h2>{text(x)}</h2>\n{y}</section>" for x, y in sections if y]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{text(title)}</h1>\n{body}\n<script>{SCRIPT}</script>"
        "</body></html>\n"
    )


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Returns a table; one with a header is of metrics, with a sentence at the end."""
    lines = ["".join(f"<td>{text(x)}</td>" for x in row) for row in rows]
    if header:
        lines.insert(0, "".join(f"<th>{text(x)}</th>" for x in header))
    kind = ' class="metrics"' if header else ""
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table{kind}>{body}</table></div>'


def slider(slides: Sequence[Slide]) -> str:
    """Returns pictures on a slider, the last one shown; a single one without it."""
    if not slides:
        return ""
    images = []
    for i, slide in enumerate(slides):
        source = base64.b64encode(slide.data).decode()
        shown = ' class="shown"' if i == len(slides) - 1 else ""
        images.append(
            f'<img{shown} src="data:image/png;base64,{source}" alt="{text(slide.alt)}">'
        )
    if len(slides) == 1:
        caption = f"<figcaption>{text(slides[0].alt)}</figcaption>"
        return f"<figure>{images[0]}{caption}</figure>"
    last = len(slides) - 1
    return (
        f'<figure class="slider"><div class="slides">{"".join(images)}</div>\n'
        f'<input type="range" min="0" max="{last}" value="{last}" '
        'aria-label="Choose a picture">\n'
        f"<figcaption><output>{text(slides[-1].alt)}</output></figcaption></figure>"
    )


def frames(path: pathlib.Path, most: int) -> list[bytes]:
    """Returns frames of an animation as PNGs, evenly spaced with the first and last."""
    with Image.open(path) as animation:
        number = getattr(animation, "n_frames", 1)
        found = []
        for i in evenly(number, most):
            animation.seek(i)
            buffer = io.BytesIO()
            animation.convert("RGB").save(buffer, "PNG")
            found.append(buffer.getvalue())
    return found


def evenly(number: int, most: int) -> list[int]:
    """Returns at most `most` of 0..number-1, evenly spaced, with the first and last."""
    if number <= most:
        return list(range(number))
    return [round(i * (number - 1) / (most - 1)) for i in range(most)]

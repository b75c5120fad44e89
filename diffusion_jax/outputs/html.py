"""Parts of a self-contained HTML page: text, tables, pictures, sliders."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
       max-width: 52rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; padding-bottom: .2rem; }
img, svg { max-width: 100%; height: auto; background: #fff; }
figure { margin: 1rem 0; }
figcaption { color: #888; }
figure.slider { width: fit-content; max-width: 100%; }
input[type=range] { width: 100%; display: block; }
.slides > img { display: none; }
.slides > img.shown { display: block; }
.row { display: grid; gap: .5rem; align-items: start;
       grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--width)), 1fr)); }
.row figure { margin: 0; }
.curves { --width: 20rem; }
.pictures { --width: 14rem; }
.strip { --width: max(5rem, 11%); font-size: .8rem; }
.wide { overflow-x: auto; }
.columns td { white-space: pre-line; min-width: 7rem; }
.columns td:first-child { white-space: normal; overflow-wrap: break-word;
                          max-width: 13rem; position: sticky; left: 0;
                          background: Canvas; }
.columns th[colspan] { padding-top: 1.2rem; }
.columns th span { position: sticky; left: 0; display: inline-block;
                   max-width: calc(min(100vw, 52rem) - 3rem); }
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
td:first-child { overflow-wrap: break-word; }
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
    """Returns a table; one with a header has metrics and what they mean."""
    lines = ["".join(f"<td>{text(x)}</td>" for x in row) for row in rows]
    if header:
        lines.insert(0, "".join(f"<th>{text(x)}</th>" for x in header))
    kind = ' class="metrics"' if header else ""
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table{kind}>{body}</table></div>'


def columns(
    header: Sequence[str], groups: Sequence[tuple[str, Sequence[Sequence[object]]]]
) -> str:
    """Returns a table whose rows are in groups.

    Args:
      header: of the columns.
      groups: titles of the groups and their rows, as wide as the header; empty groups
        are left out.
    """
    lines = ["".join(f'<th scope="col">{text(x)}</th>' for x in header)]
    for title, rows in groups:
        if rows:
            shown = f"<span>{text(title)}</span>"
            lines.append(f'<th colspan="{len(header)}">{shown}</th>')
        for name, *cells in rows:
            shown = "".join(f"<td>{text(x)}</td>" for x in cells)
            lines.append(f"<td>{text(name)}</td>{shown}")
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="columns">{body}</table></div>'


def figure(slide: Slide) -> str:
    """Returns a picture with its caption."""
    caption = f"<figcaption>{text(slide.alt)}</figcaption>"
    return f"<figure>{_image(slide)}{caption}</figure>"


def row(parts: Sequence[str], kind: str) -> str:
    """Returns parts next to each other, in several rows where the page is narrow.

    Args:
      parts: such as figures.
      kind: "curves", "pictures", or "strip", of small ones.
    """
    return f'<div class="row {kind}">{"".join(parts)}</div>' if parts else ""


def details(summary: str, content: str) -> str:
    """Returns a part of the page that is folded away."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def slider(slides: Sequence[Slide]) -> str:
    """Returns pictures on a slider, the last one shown; a single one without it."""
    if not slides:
        return ""
    if len(slides) == 1:
        return figure(slides[0])
    last = len(slides) - 1
    images = [_image(slide, i == last) for i, slide in enumerate(slides)]
    return (
        f'<figure class="slider"><div class="slides">{"".join(images)}</div>\n'
        f'<input type="range" min="0" max="{last}" value="{last}" '
        'aria-label="Choose a picture">\n'
        f"<figcaption><output>{text(slides[-1].alt)}</output></figcaption></figure>"
    )


def _image(slide: Slide, is_shown: bool = False) -> str:
    source = base64.b64encode(slide.data).decode()
    kind = ' class="shown"' if is_shown else ""
    return f'<img{kind} src="data:image/png;base64,{source}" alt="{text(slide.alt)}">'

"""The documentation as a site: python -m sphinx -W -b html docs runs/site"""

import json
import pathlib
import re

import diffusion_jax

project = "diffusion_jax"
author = copyright = "The diffusion_jax developers"
release = diffusion_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}  # see `notebook_page`
exclude_patterns = ["sampler_errors.md"]  # a table that diffusion_results.md shows
highlight_language = "none"  # of equations in docstrings
smartquotes = False  # flags begin with two hyphens
html_theme = "furo"
html_title = project
myst_heading_anchors = 4  # links such as families.md#pix2pix
myst_enable_extensions = ["dollarmath"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_use_ivar = True  # attributes of a class are described once

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Source):")


def prepare_docstring(app, what, name, obj, options, lines):
    """Makes the equations, which are indented, literal; bars are no substitutions."""
    made, is_equation, after_text = [], False, False
    for line in lines:
        is_indented = line.startswith("    ")
        if SECTION.match(line):
            after_text = True
        if is_indented and not is_equation and not after_text:
            made += ["::", ""]
        is_equation = is_indented if line else is_equation
        made.append(line if is_indented and not after_text else escape(line))
    lines[:] = made


def escape(line):
    return line.replace("|", r"\|").replace("*", r"\*")


DOCS = pathlib.Path(__file__).parent
ROOT_PAGES = {"changelog": "CHANGELOG", "contributing": "CONTRIBUTING"}


def notebook_page(text):
    """Turns a notebook into Markdown: its text, its code, and its stored outputs."""
    parts = []
    for cell in json.loads(text)["cells"]:
        content = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(content)
            continue
        parts.append(f"```python\n{content}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                png = data["image/png"].replace("\n", "")
                parts.append(f"![What this cell draws](data:image/png;base64,{png})")
            else:
                shown = "".join(output.get("text", data.get("text/plain", [])))
                parts.append(f"```\n{shown}\n```")
    return "\n\n".join(parts)


def prepare_page(app, name, source):
    """Puts pages of the root here; folders, which GitHub shows, are no links."""
    if app.env.doc2path(name).suffix == ".ipynb":
        source[0] = notebook_page(source[0])
    if name in ROOT_PAGES:
        text = (DOCS.parent / f"{ROOT_PAGES[name]}.md").read_text()
        text = re.sub(r"\]\((?!http|#)", "](../", text).replace("](../docs/", "](")
        for page, stem in ROOT_PAGES.items():
            text = text.replace(f"](../{stem}.md", f"]({page}.md")
        source[0] = text
    link = re.compile(r"\[([^\]]*)\]\((\.\./[^)#]*)\)")
    is_folder = lambda match: (DOCS / match[2]).is_dir()  # noqa: E731
    source[0] = link.sub(lambda x: x[1] if is_folder(x) else x[0], source[0])


def setup(app):
    app.connect("source-read", prepare_page)
    # Before napoleon, which turns sections into fields.
    app.connect("autodoc-process-docstring", prepare_docstring, priority=100)

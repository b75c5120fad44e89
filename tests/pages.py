"""Reads an HTML page for tests."""

from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """What is on a page.

    Attributes:
      open: tags that were not closed, or were closed in another order.
      title: text of the title.
      headings: texts of h2.
      sources: what images load.
      alts: texts for images, also for plots; None where one is missing.
      loads: tags that load something else than an image.
      text: all of it.
    """

    def __init__(self, text: str):
        super().__init__()
        self.open, self.headings, self.sources, self.alts = [], [], [], []
        self.loads = []
        self.title, self.text = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.sources.append(values["src"])
            self.alts.append(values.get("alt"))
        if tag == "svg" and values.get("role") == "img":
            self.alts.append(values.get("aria-label"))
        if tag in ("link", "iframe") or tag == "script" and "src" in values:
            self.loads.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID and self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "title":
            self.title += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

"""Pages as a test sees them."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """The elements of a page and its text; elements must be closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.elements, self.text, self.open = path, [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag):
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def linked(self):
        """The files to which the page refers."""
        addresses = [
            attributes[key]
            for _, attributes in self.elements
            for key in ("href", "src", "data-mesh", "data-choose")
            if key in attributes
        ]
        parts = [urlsplit(address) for address in addresses if address != "data:,"]
        assert not any(part.scheme or part.netloc or part.path.startswith("/") for part in parts), addresses
        return {(self.path.parent / unquote(part.path)).resolve() for part in parts}

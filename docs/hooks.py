"""What `make docs` does beside mkdocs: pages that lie outside of docs/, API pages, and equations as MathML."""

import html
import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Page of the site: file of the repository. No text stands twice.
OUTSIDE = {
    "index.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
    "toybox/weights/README.md": "toybox/weights/README.md",
}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside of docs/, and one of the API for every package."""
    for page, file in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=file))
    for package in sorted(file.parent.name for file in Path().glob("*/__init__.py")):
        files.append(File.generated(config, f"api/{package}.md", content=api_page(package)))
    return files


def api_page(package: str) -> str:
    """Markdown that asks mkdocstrings for a package and all its modules, each once.

    Args:
        package: Its folder, in the working directory.
    """
    parts = [f"# {package}"]
    for file in sorted(Path(package).rglob("*.py"), key=lambda file: (file.parent, file.name != "__init__.py", file)):
        name = ".".join(file.with_suffix("").parts)
        if file.name == "__init__.py":  # what it says of itself
            name = name.removesuffix(".__init__")
            options = "members: false" + ("\n      show_root_heading: false" if name == package else "")
            parts.append(f"::: {name}\n    options:\n      {options}")
        elif file.name != "__main__.py":
            parts.append(f"::: {name}")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    here = OUTSIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {file: name for name, file in OUTSIDE.items()}

    def moved(link: re.Match) -> str:
        target = normpath(f"{dirname(here)}/{link[1]}").removeprefix("/")
        target = pages.get(target, target.removeprefix("docs/"))
        return "](" + relpath(target, dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def on_page_content(content: str, **_: Any) -> str:
    r"""Turns `\(...\)` and `\[...\]`, which arithmatex leaves, into MathML."""

    def equation(found: re.Match) -> str:
        tex = html.unescape(found[3])
        return convert(tex, display="block" if found[2] == "[" else "inline")

    return re.sub(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', equation, content, flags=re.DOTALL)

"""Docstrings are plain text; this keeps Markdown from taking `[--option]`, `<a, b>` and `$` for its own."""

import re
from typing import Any

from griffe import Extension, Object

SIGNS = str.maketrans({"[": "&#91;", "<": "&lt;", "$": "&#36;"})
CODE = re.compile(r"(`+[^`]*`+)")


class PlainText(Extension):
    """Escapes Markdown's signs outside of code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Escapes an object's docstring; of modules not the indented lines, which are code.

        Args:
            obj: With or without a docstring.
        """
        if obj.docstring is None:
            return
        lines = obj.docstring.value.splitlines()
        obj.docstring.value = "\n".join(
            line if obj.is_module and line.startswith("    ") else self._escaped(line) for line in lines
        )

    def _escaped(self, line: str) -> str:
        return "".join(part if part.startswith("`") else part.translate(SIGNS) for part in CODE.split(line))

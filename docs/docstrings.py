"""Docstrings are plain text; this keeps Markdown from taking `[--option]`, `<a, b>` and `$` for its own."""

import re
from typing import Any

from griffe import Extension, Object

SIGNS = str.maketrans({"[": "&#91;", "<": "&lt;", "$": "&#36;"})
CODE = re.compile(r"(`+[^`]*`+)")


class PlainText(Extension):
    """Escapes Markdown's signs outside of code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Escapes an object's docstring; of modules not the indented lines after an empty one, which are code.

        Args:
            obj: With or without a docstring.
        """
        if obj.docstring is None:
            return
        lines, code, before = [], False, ""
        for line in obj.docstring.value.splitlines():
            code = obj.is_module and line.startswith("    ") and (code or not before)
            lines.append(line if code else self._escaped(line))
            before = line.strip()
        obj.docstring.value = "\n".join(lines)

    def _escaped(self, line: str) -> str:
        return "".join(part if part.startswith("`") else part.translate(SIGNS) for part in CODE.split(line))

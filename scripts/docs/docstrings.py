"""Docstrings for MkDocs: references such as ``:meth:`rank``` become code, ``::`` before an example goes,
and arguments that share a line get one each."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_SEVERAL = re.compile(r"^(    )(\w+(?:, \w+)+): (.*)$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`~?([^`]+)`")


def markdown_of(text: str) -> str:
    """A docstring's text in Markdown.

    >>> markdown_of("Raises as :meth:`rank`. So::")
    'Raises as `rank`. So:'
    """
    text = _SEVERAL.sub(lambda m: "\n".join(f"{m[1]}{name}: {m[3]}" for name in m[2].split(", ")), text)
    text = _ROLE.sub(r"`\1`", text)
    text = re.sub(r"^(\s*)::\n", r"\1\n", text, flags=re.MULTILINE)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


class Docstrings(Extension):
    """Rewrites every docstring when it is loaded."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite that of an object; what is imported from elsewhere is rewritten there."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)

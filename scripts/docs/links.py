"""Links and commands of a page, as the site has them. Needs nothing but Python: tests use it without MkDocs."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "deploy/README.md",
    "deploy/monitoring/README.md",
    "requirements/README.md",
)
"""Pages outside ``docs/`` that are on the site, too, at the path that they have in the repository."""

STANDS_FOR = {"README.md": "docs/index.md", "protos/recsys/v1": "docs/reference/grpc.md"}
"""Files and folders of the repository, and the page that a reader of the site gets instead."""

_CODE_OR_LINK = re.compile(
    r"^```.*?^```$|^ {4}[^\n]*$|`[^`\n]+`|(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
_FENCE = re.compile("(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_COMMANDS = "recsys|make|pip|python|kubectl|kustomize|grpcurl|docker|torchrun|curl|npm"
_SHELL = re.compile(rf"(?:(?<=\n\n)|\A)((?:    (?:{_COMMANDS}) [^\n]*\n)(?:(?:    [^\n]*)?\n)*)")


def for_site(markdown: str, at: str) -> str:
    """The text of a page as the site has it.

    Args:
        markdown: the text.
        at: the page's path in the repository.
    """
    linked = _CODE_OR_LINK.sub(lambda m: link(m["text"], m["target"], at) if m["target"] else m[0], markdown)
    parts = _FENCE.split(linked)
    return "".join(part if i % 2 else _SHELL.sub(_fence, part) for i, part in enumerate(parts))


def link(text: str, target: str, at: str) -> str:
    """A link as the site has it: a page called by its file, by its title; a file that is not on the site, by its text
    alone, with the path as a tooltip.

    >>> link("the rules", "../specs/ids.md#strings", "docs/guides/data.md")
    '[the rules](../specs/ids.md#strings)'
    >>> link("encode.py", "../../recsys/features/encode.py", "docs/guides/data.md")
    '<span class="source" title="recsys/features/encode.py">encode.py</span>'
    """
    path, _, heading = target.partition("#")
    if "://" in target or not path:
        return f"[{text}]({target})"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(at), path))
    found = STANDS_FOR.get(path) or _page_of(path)
    if found is None:
        return f'<span class="source" title="{path}">{text}</span>'
    if re.fullmatch(r"[\w/.-]+\.md", text):
        text = _title(found) or text
    relative = posixpath.relpath(site_path(found), posixpath.dirname(site_path(at)) or ".")
    return f"[{text}]({relative}{'#' + heading if heading else ''})"


def _page_of(path: str) -> str | None:
    """The file on the site that a path of the repository leads to: itself, or a folder's README."""
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
    shown = path in PAGES or (path.startswith("docs/") and (ROOT / path).exists())
    return path if shown and not re.match("docs/results/.*/", path) else None


def _title(path: str) -> str | None:
    """The first heading of a page; None: it has none."""
    found = re.search("^# (.+)$", (ROOT / path).read_text(), re.MULTILINE)
    return found[1] if found else None


def site_path(path: str) -> str:
    """The path that a file of the repository has on the site."""
    return path.removeprefix("docs/")


def _fence(found: re.Match[str]) -> str:
    """A block of indented commands as a fenced one, which gets the colours of a shell."""
    lines = found[1].rstrip().splitlines()
    return "```sh\n" + "\n".join(line[4:] for line in lines) + "\n```\n\n"

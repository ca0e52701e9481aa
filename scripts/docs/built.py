"""Check the built site: ``python scripts/docs/built.py [site]``. Needs nothing but Python.

Every link leads to a file of the site, and to a heading where it names one; nothing is loaded from another host.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]


class _Document(HTMLParser):
    """The anchors, links and loaded files of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "__top"}
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what an element links to, loads, and can be linked to by."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(found.get("href", ""))
        if "src" in found:
            self.loaded.append(found["src"])


def find_faults(site: Path) -> list[str]:
    """List dead links, and files of other hosts, as "page: what"."""
    documents = {path: _Document() for path in sorted(site.rglob("*.html"))}
    for path, document in documents.items():
        document.feed(path.read_text())
    faults = []
    for path, document in documents.items():
        if path.name == "404.html":  # its links begin at the site's root, wherever that will be
            continue
        page = path.relative_to(site)
        faults += [f"{page}: loads {url}" for url in document.loaded if urlsplit(url).netloc]
        for url in (*document.links, *document.loaded):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                faults.append(f"{page}: {url} is not there")
            elif target in documents and unquote(parts.fragment) not in documents[target].anchors:
                faults.append(f"{page}: {url} has no such heading")
    return faults


if __name__ == "__main__":
    built = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()
    pages = len(list(built.rglob("*.html")))
    if faults := find_faults(built):
        sys.exit("\n".join(["error:", *faults]))
    if not pages:
        sys.exit(f"error: {built} has no pages; `make docs` builds them")
    print(f"{built}: {pages} pages, no dead link, nothing from another host")

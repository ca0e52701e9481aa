"""Hooks of MkDocs: pages that are written for the repository become pages of a site.

Runs in the environment of ``make docs``, which has MkDocs and no recsys.
"""

from __future__ import annotations

from links import PAGES, ROOT, for_site
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

UNSEARCHED = ("CHANGELOG.md", "benchmarks/README.md")
"""Pages that mention everything and explain nothing: a search does not find them."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings GitHub's anchors, so that ``page.md#heading`` leads to the same place on both."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside ``docs/``."""
    for path in PAGES:
        files.append(File.generated(config, path, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links that leave the site; give commands the colours of a shell."""
    here = page.file.src_uri
    if here in UNSEARCHED:
        page.meta["search"] = {"exclude": True}
    return for_site(markdown, here if here in PAGES else f"docs/{here}")

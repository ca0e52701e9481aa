"""`recsys release`: a store of releases, and which of them servers serve (``docs/guides/releases.md``).

- ``push.py``: bundles to a release; ``prune.py``: releases that nothing needs are deleted;
- ``look.py``: `list`, `show`, `status`;
- ``compare.py``: two releases on live calls and on logged requests; ``charts.py``: its picture;
- ``promote.py``: a release goes live, if the guards let it; ``evidence.py``: what takes long before that;
- ``change.py``: `rollback`, `split`, `shadow`;
- ``pipeline.py``: `recsys pipeline`, from a log to a release that is promoted;
- ``shared.py``: options and words that they share: the store's folder, the wait for servers.

A new command is a function in a file here, named in ``COMMANDS``; what it needs beyond ``shared.py`` it imports
inside.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from recsys.cli.releases import change, compare, look, promote, prune, push

app = typer.Typer(
    no_args_is_help=True,
    help="Push releases to a store, and say which of them servers serve; compare them, and take them back.",
)

COMMANDS: dict[str, Callable[..., None]] = {
    "push": push.push,
    "list": look.list_,
    "show": look.show,
    "promote": promote.promote,
    "rollback": change.rollback,
    "split": change.split,
    "shadow": change.shadow,
    "status": look.status,
    "compare": compare.compare,
    "prune": prune.prune,
}
for name, command in COMMANDS.items():
    app.command(name)(command)

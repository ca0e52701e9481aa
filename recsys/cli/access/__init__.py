"""`recsys access`: tokens of callers, and a look at the file that says who may do what.

- ``tokens.py``: makes a token. ``look.py``: reads an access file as a server does.
"""

from __future__ import annotations

import typer

from recsys.cli.access import look, tokens

app = typer.Typer(no_args_is_help=True, help="Make tokens of callers, and look at the file that says who may do what.")
app.command()(tokens.token)
app.command()(look.check)

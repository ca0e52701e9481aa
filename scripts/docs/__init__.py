"""Pages of ``docs/reference/`` that are made of the code, and the site that is made of ``docs/``.

``generate_docs.py`` writes the pages; they are committed, for readers of the repository, and ``tests/test_docs.py``
holds them to the code:

- ``settings.py``: settings of the server; ``scaling.py``: the tables of the scaling page;
- ``commands.py``: commands, options, exit codes; ``calls.py``: gRPC calls and messages; ``errors.py``: errors and
  statuses; ``metrics.py``: what a server counts;
- ``table.py``: tables in Markdown.

``make docs`` builds the site with MkDocs, in an environment that has no recsys:

- ``hooks.py``: pages from elsewhere in the repository; ``links.py``: links out of ``docs/``, commands in colour;
- ``docstrings.py``: references and examples of docstrings in Markdown;
- ``built.py``: the built site has no dead link, and asks no other host for anything.
"""

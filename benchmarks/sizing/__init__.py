"""Parts of ``capacity.py``: needs of a deployment, worked out from recorded figures. None is run by itself.

::

    amounts.py      a number with its range
    recorded.py     the constants: each a recorded figure, by name
    deployment.py   a deployment's size: arguments, units, bounds
    needs.py        a line of a plan
    memory.py       tables, a host's memory, releases
    store.py        Redis: bytes, commands, servers
    serving.py      ranker cores, network, request log
    training.py     the log, training on CPUs and GPUs
    limits.py       what breaks first, and what replaces it
    claims.py       the first design's numbers beside these
    pages.py        text, Markdown, JSON lines
    picture.py      a PNG
"""

"""Time of a Rank request by stage and operator: measured on the server's own path, beside what its arithmetic takes.

::

    measure.py      requests through the server's path, in this process
    requests.py     which requests
    operators.py    time by operator, from ONNX Runtime's profiler
    matmul.py       speed of this machine's matrix products
    report.py       terminal, JSON, charts
    retrieval/      the same of a retrieval bundle: its index beside scoring all
"""

"""Engines that encode and sort logs, behind one Protocol: DuckDB in this process, Spark on a cluster.

::

    engine.py     the Protocol; their names; the memory of one
    open.py       an engine by its name
    duckdb.py     DuckDB, within this process
    spark.py      Spark: this machine's cores, or a cluster
    cluster.py    the master that SPARK_MASTER names, and what its workers lack

An engine decides nothing about values: both read files with the same reader (``recsys/rows``), and sort what comes out,
which is keys, numbers and times, so that the answer does not depend on which engine it is. To add one: a class of the
Protocol ``engine.Engine``, its name in ``engine.ENGINES``, a branch of ``open.open_engine``.
"""

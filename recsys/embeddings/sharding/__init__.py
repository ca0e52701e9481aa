"""Tables over several processes.

- ``plan.py``: the kind of sharding of each table, by TorchRec's planner;
- ``shard.py``: tables in memory, optimisers fused, shards read and written;
- ``network.py``: between hosts: which interface, links that break;
- ``table_row_wise.py``: a table's rows over one host's processes; ``row_adam.py``: Adam of the rows looked up.

To add a kind of sharding: a sharder as in ``table_row_wise.py``, its name in ``plan.SHARDINGS`` and in
``training/config.py``, a case of ``tests/embeddings/sharding``.
"""

"""A private Redis for those who have none.

- ``server.py``: EmbeddedRedis starts one for a data folder, or joins the one that runs;
- ``keeper.py``: the process that runs it for as long as anyone uses it;
- ``restarts.py``: it is started again when it was killed;
- ``open_redis.py``: the URL a command was given, or a private Redis.
"""

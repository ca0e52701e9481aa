"""Helpers of the tests: whatever two test modules share and no fixture gives.

Models and their runs, from small to large:

- ``tiny_bundle``, ``tiny_retrieval``: bundles written by hand, and what they must answer by definition;
- ``tiny_run``: a training of seconds, and data sets with awkward features;
- ``own_log``: a shop's log as `recsys prepare` leaves it;
- ``tiny_sdim``: an untrained SDIM for histories longer than one read;
- ``exported_models``: every sort of ranking model as a bundle; ``graphs_once``: exports that copy graphs made before;
- ``planted``: interactions with communities that a retrieval model must find.

Servers and processes:

- ``tiny_server``, ``tiny_workers``: a server in a process of its own, with workers, and callers of it;
- ``half_open``: calls that are opened and send no message;
- ``redis_servers``: real Redis servers, clusters, Sentinels, TLS; ``torchrun``: several processes of a training;
- ``network``: hosts, which are network namespaces with a cable; ``training_hosts``, ``cut_hosts``: what runs there and
  loses one; ``fleet``: servers behind one name; ``shifted_clock``: a process whose clock is ahead;
- ``command_line``: the ``recsys`` command in a process of its own; ``ingest_log``: `recsys ingest` and its log.

Others: ``long_histories`` (a model with a state over a store), ``replay`` (calls written down, made again), ``paths``.
Fixtures that one folder shares are in its ``conftest.py``, others in ``tests/conftest.py``; suites that every
implementation of an interface passes are in ``tests/contracts/``, named after the interface.
"""

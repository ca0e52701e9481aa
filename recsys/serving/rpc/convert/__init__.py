"""Conversion: protobuf messages to domain values and back, a module for each group of calls.

- ``rank.py``: Rank, RankBatch. ``retrieval.py``: Retrieve, Recommend. ``explain.py``: Explain.
- ``related.py``: Similar, Trending.
- ``filters.py``: filters of Rank, Retrieve and Recommend. ``rules.py``: rules of Rank and Recommend.
- ``events.py``: AppendEvents, AppendEventStream, GetHistory, GetHistories. ``entities.py``: PutEntities, GetFeatures,
  WithdrawItems.
- ``ids.py``, ``times.py``: what requests share. ``answers.py``: what answers share.

Whatever a caller may send is checked here, once. An error names the field as the proto file does, what arrived, and
what is allowed. To add a call: a function from its message to a frozen dataclass or plain values, and one from the
result to the answer.
"""

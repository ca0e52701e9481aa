"""Messages for both clients.

::

    ranker.py           of the ranking service: Rank, Retrieve, Recommend
    explain.py          of its Explain
    feature_store.py    of the feature store: events, entities, histories
    fields.py           arguments as fields of requests
"""

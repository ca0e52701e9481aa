"""Messages for both clients.

::

    ranker.py           of the ranking service: Rank, Retrieve, Recommend
    related.py          of what is near to given items, and of what is trending: Similar, Audience, Trending
    filters.py          of its filters
    rules.py            of its rules
    explain.py          of its Explain
    feature_store.py    of the feature store: events, entities, histories
    fields.py           arguments as fields of requests
"""

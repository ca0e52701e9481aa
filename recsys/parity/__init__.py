"""Proof that serving sees what training saw: the model's inputs, from the online store and from the offline samples.

``replay.py`` delivers events to a store in the order in which they arrived, asks at every sample's moment for what a
Rank request would read, encodes it as the server does, and compares with the offline sample, value by value.
``requests.py`` does the same for requests that a server logged.

::

    deliveries.py    events as they reach a store
    replay.py        a log replayed, compared at every sample's moment
    requests.py      logged requests
    report.py        what was compared, and where the sides differ
"""

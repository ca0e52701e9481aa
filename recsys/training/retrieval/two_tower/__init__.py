"""Training of two towers on histories: one pass over a sequence of events answers for each of its beginnings.

::

    sequences.py      events in order, cut into windows; the targets of each; batches
    point_in_time.py  the events that the moment of a pair saw, while others were on their way
    data.py           ids of items, users and events as codes of rows
    predicted.py      attributes of items that are predicted beside the next item
    tower.py          tables and network: vectors of all items, interests of users
    learner.py        steps, and the metrics of what is served
    run.py            a run: what it refuses, its folder
    trained.py        a run's model, loaded
    warm_start.py     rows and layers of an older run
"""

"""Training of models that rank all items.

::

    config.py        a run as one frozen value
    loop.py          minibatches, by the protocol of NGCF and LightGCN
    trainers.py      a step over the whole graph, or over sampled neighbours
    pairs/           batches of pairs for these, and rows of users and items
    learners/        models in a run, as the loop takes them through their epochs
    frozen/          users trained against the items of a bundle
    linear/          the closed form, which takes no steps
    two_tower/       a model that is trained on histories
    new_items/       what items that come after training are given
    run.py           a run of any of them
    known.py         ids that a run knows, and pairs that its steps draw
    warm_start.py    vectors of an older run, by id
    ranking.py       all items ranked for every user, and the metrics
    baselines.py     popularity and chance beside them
    evaluate.py      a run's model on a part of the data
    segments.py      lists by how much training had of a user, of an item
    end_to_end.py    its candidates, ranked by a ranking model
    trained.py       a run's model, loaded
    folder.py        the folder of a run
    full_batch.py    all pairs in one step, by the protocol of GraphHash

To add a metric of lists: the function in ``recsys/metrics/lists.py``, a field of ``ranking.RankingMetrics`` and of the
values by user in ``ranking.rank_users``.
"""

"""Metrics of a run, of its segments, and of two runs beside each other.

::

    evaluate.py       metrics of logits, of segments, with intervals
    predictions.py    logits of a split, kept beside the run
    comparison.py     differences between two models, users resampled
    baselines.py      popularity and chance beside a model
    recorded.py       what a bundle records of its test split, so that releases can be compared
    report.py         tables, JSON and the reliability plot

To add a metric of a run: the function in ``recsys/metrics``, a field of ``evaluate.Metrics`` filled in
``evaluate.measure``, its name in ``metrics/direction.py``, a column in ``report.py``, a line in
``docs/guides/evaluation.md``.
"""

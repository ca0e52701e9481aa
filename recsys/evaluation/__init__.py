"""Metrics of a run, of its segments, and of two runs beside each other.

::

    evaluate.py       metrics of logits, of segments, with intervals
    predictions.py    logits of a split, kept beside the run
    comparison.py     differences between two models, users resampled
    baselines.py      popularity and chance beside a model
    report.py         tables, JSON and the reliability plot

To add a metric of a run: the function in ``recsys/metrics``, a field of ``evaluate.Metrics`` filled in
``evaluate.measure`` (and its name in ``LOWER_IS_BETTER`` if it falls), a column in ``report.py``, a line in
``docs/evaluation.md``.
"""

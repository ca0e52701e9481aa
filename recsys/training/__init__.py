"""Training of ranking models: the loop, and what a step and a run need.

::

    config.py              a run as one frozen value
    settings.py            configurations as JSON, and overrides of them
    loop.py                the loop, top to bottom
    start.py               a run before its first step: new, warm, or resumed
    steps.py               steps from batches, plain or pipelined
    trained.py             a model with what feeds it, built or loaded
    precision.py           float32 or autocast
    regularization.py      DIN's L2 on the rows of a batch
    schedules.py           learning rates over a run
    early_stopping.py      the best weights, and when to stop
    validate_dataset.py    refusals before the first step
    notices.py             settings that will not do what they are for
    non_finite.py          a step that is not finite
    reports.py             progress and results, to callbacks
    explain.py             attention weights of AutoInt
    run/                   the folder of a run
    tables/                rows and physical tables
    warm_start/            runs that begin with an older one's rows
    distributed/           several processes
    retrieval/             the same for models that rank all items

To add a schedule of the rate: its name in ``config.ScheduleName``, its factor in ``schedules.decayed``, a test in
``tests/training/test_early_stopping.py``.
"""

"""The daily loop: new events to samples, a model, a verdict, a release that is served (``docs/guides/pipeline.md``).

A day is a list of steps. Each has inputs, a key that is their hash, and an output that appears when it is whole; one
file of JSON says which steps a day has taken, and a run that was killed goes on behind the last of them.

- ``settings.py``: the TOML file, every key of it; ``example.py``: one to begin with;
- ``days.py``: a day in its zone, durations;
- ``state.py``: the file of a day; ``steps.py``: keys; a step is taken, or found done; outputs that nothing needs;
- ``plan.py``: the release that a day's model goes on from, and if it does;
- ``samples.py``: events to samples, and a look at them; ``train.py``: the models; ``bundle.py``: their export;
- ``gate.py``: reasons not to promote; ``publish.py``: states, push, promotion;
- ``loop.py``: all steps, top to bottom; ``stages.py``: those up to the gate;
- ``report.py``: JSON and Prometheus text; ``page.py``: the page for people.

A new step is a function that writes into a folder and returns facts, and a call of ``Steps.take`` in ``stages.py``.
"""

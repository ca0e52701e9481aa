"""Parts of ``pipeline.py``. None is run by itself.

- ``shop.py``: a log cut into days, settings of a pipeline, and the command that runs a day.
- ``kills.py``: kills of a day at random moments.
- ``days.py``: AUC and minutes over simulated days; ``arms.py``: what each arm serves, trains and refuses;
  ``picture.py``: their picture.
"""

"""The folder of a run: configuration, checkpoint, record.

::

    folder.py         the files of a run; opening it new or again
    checkpoint.py     the state of a run, whole after a kill
    record.py         facts of a finished run for the tables of results
    tensorboard.py    curves

To add state that a resumed run needs: a key of ``Checkpoint.loop``, written in ``training/loop.py`` and read in
``training/start.py`` with a default for older checkpoints.
"""

"""Fuzzing: bytes from outside, given to what decodes them. No error but those of ``recsys.errors`` may come of it.

- ``targets.py``: a function of bytes for each decoder, and valid examples to begin with.
- ``access.py``: those of access files, keys, tokens and certificates.
- ``run.py``: coverage-guided fuzzing with atheris; ``make fuzz SECONDS=60`` runs every target.
- ``corpus/``: for each target inputs that reach different code, small; ``test_corpus.py`` runs them, and variants of
  them, without atheris.

To add a decoder: a function and its examples in ``targets.py``, then ``make fuzz``.
"""

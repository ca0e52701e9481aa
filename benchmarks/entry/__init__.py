"""Parts of ``way_in.py``. None is run by itself."""

"""Parts of ``retrieval_models.py``. None is run by itself."""

"""The online feature store: behaviour histories and entity features on Redis."""

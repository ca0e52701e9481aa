"""How ids become rows of tables."""

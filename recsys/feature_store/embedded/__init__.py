"""A private Redis for those who have none."""

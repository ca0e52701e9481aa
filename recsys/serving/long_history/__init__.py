"""Long histories: the sums of a user's events, kept in the store and brought up to date."""

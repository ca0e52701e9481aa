"""Models that score a user's candidates, one a file, and the blocks they share."""

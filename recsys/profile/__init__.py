"""Where a Rank request's time goes: measured on the server's own path, beside what its arithmetic must take."""

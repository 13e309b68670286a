"""One run, from recipe to run folder."""

"""Models: loaded, built, and prepared for what is done with them."""

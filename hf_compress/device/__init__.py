"""Deployed files where they are used: nothing here needs more than NumPy, Pillow and the file's runtime."""

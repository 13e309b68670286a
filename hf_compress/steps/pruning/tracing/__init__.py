"""Tracing: which channels belong together, and so can only go together."""

"""Removal: the units that can go from a model without breaking it, and their removal."""

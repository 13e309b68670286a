"""Importance: how much each unit of each group counts."""

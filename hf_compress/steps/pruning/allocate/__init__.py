"""Allocation: how many units each group loses under a budget, and which ones by their importance."""

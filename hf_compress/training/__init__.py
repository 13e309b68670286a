"""Training, and the evaluation that goes with it, both by transformers' Trainer."""

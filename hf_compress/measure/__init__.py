"""Quality, cost and latency of a model."""

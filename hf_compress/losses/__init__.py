"""Distillation losses: of logits and of layers."""

"""Distillation losses: of logits and of layers. Importing this package registers the built-in ones."""

from hf_compress.losses import layers, logits

__all__ = ["layers", "logits"]

"""Importance criteria, one file a kind: every file here is imported, and registers what it holds."""

from importlib import import_module
from pkgutil import iter_modules

from hf_compress.steps.pruning.score.registry import CRITERIA, register_importance

__all__ = ["CRITERIA", "register_importance"]

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")

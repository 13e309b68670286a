"""The runtimes on which small models are used: one file each, and every file of this folder is imported."""

import importlib
import pkgutil

from hf_compress.runtimes.base import RUNTIMES, Exportable, Runtime, register_runtime, runtime

__all__ = ["RUNTIMES", "Exportable", "Runtime", "register_runtime", "runtime"]

for module in pkgutil.iter_modules(__path__, __name__ + "."):
    importlib.import_module(module.name)

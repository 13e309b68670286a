"""Which Neural Compressor is installed."""

from importlib.util import find_spec
from pathlib import Path

from hf_compress.ground.errors import UsageError


def require_supported() -> None:
    """Check for a Neural Compressor without pruning and distillation of its own, without importing it.

    Raises:
        UsageError: there is none, or it is 3.7.1 or older.
    """
    found = find_spec("neural_compressor")
    if found is None:
        raise UsageError("Neural Compressor is not installed: pip install 'hf-compress[neural-compressor]'")
    if any((Path(folder) / "training.py").is_file() for folder in found.submodule_search_locations or ()):
        raise UsageError(
            "Neural Compressor 3.7.1 or older is installed, which has its own pruning and distillation and is not "
            "supported here: keep to `neural_compressor.training`, or install neural-compressor-pt 3.10 in its place"
        )

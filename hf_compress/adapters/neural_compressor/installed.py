"""Which Neural Compressor is installed."""

from importlib.util import find_spec

from hf_compress.errors import UsageError


def require_supported() -> None:
    """Check for a Neural Compressor without pruning and distillation of its own.

    Raises:
        UsageError: there is none, or it is 3.7.1 or older.
    """
    if find_spec("neural_compressor") is None:
        raise UsageError("Neural Compressor is not installed: pip install 'hf-compress[neural-compressor]'")
    if find_spec("neural_compressor.training") is not None:
        raise UsageError(
            "Neural Compressor 3.7.1 or older is installed, which has its own pruning and distillation and is not "
            "supported here: keep to `neural_compressor.training`, or install neural-compressor-pt 3.10 in its place"
        )

"""Exports to the runtimes on which small models are used: one file a runtime, each an optional extra."""

from hf_compress.checkpoint.export import executorch, litert, onnx, openvino, pt2  # noqa: F401  (each registers itself)
from hf_compress.checkpoint.export.base import RUNTIMES, Exportable, Runtime, register_runtime
from hf_compress.checkpoint.export.run import export

__all__ = ["RUNTIMES", "Exportable", "Runtime", "export", "register_runtime"]

"""What a run depended on, for its report: versions, hardware, and what makes torch repeat itself."""

import importlib.metadata
import platform
from contextlib import suppress
from typing import Any

PACKAGES = (
    "hf-compress",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface-hub",
    "torch-pruning",
    "timm",
    "safetensors",
    "numpy",
    "pillow",
    "scikit-learn",
)


def environment() -> dict[str, Any]:
    """Return versions, hardware and torch's settings; a package that is not installed is left out."""
    import torch

    from hf_compress.ground import processes
    from hf_compress.ground.processor import device_name

    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        **versions,
        "python": platform.python_version(),
        "processor": device_name(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }

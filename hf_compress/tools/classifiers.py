"""Any classifier as what predicts and is benchmarked: a deployed file, or a model that PyTorch runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hf_compress.data.images import preprocess
from hf_compress.device.model import DeviceModel
from hf_compress.models.load import load


def open_classifier(name: str, threads: int, trust_remote_code: bool = False) -> DeviceModel:
    """Open a deployed file in its runtime, or a folder or Hub id in PyTorch.

    Raises:
        UsageError, RunError: it cannot be opened: see `DeviceModel.open` and `models.load.load`.
    """
    if Path(name).is_file():
        return DeviceModel.open(name, threads)
    torch.set_num_threads(threads)
    loaded = load(name, trust_remote_code=trust_remote_code)

    def see(picture: np.ndarray) -> np.ndarray:
        return preprocess(loaded.processor, [torch.from_numpy(picture).permute(2, 0, 1)]).numpy()

    def logits(pixel_values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return loaded.model(pixel_values=torch.from_numpy(pixel_values)).logits.numpy()

    return DeviceModel(name, loaded.label_names, see, logits)

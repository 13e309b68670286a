"""Any model that says something of pictures, to predict and to be benchmarked: a file, or one that PyTorch runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hf_compress.data.images import preprocess
from hf_compress.device.model import DeviceModel
from hf_compress.ground.errors import UsageError
from hf_compress.ground.outputs import deployed_tensors
from hf_compress.run.scripts import unsaid
from hf_compress.tasks.declared import declared_task


def device_model(name: str, threads: int, trust_remote_code: bool = False) -> DeviceModel:
    """Open a deployed file in its runtime, or a folder or Hub id in PyTorch.

    Raises:
        UsageError, RunError: it cannot be opened, see `DeviceModel.open` and `Task.load`, or it says nothing that is
            known here.
    """
    if Path(name).is_file():
        return DeviceModel.open(name, threads)
    torch.set_num_threads(threads)
    task = declared_task(name)
    loaded = task.load(name, trust_remote_code=trust_remote_code)
    if reason := unsaid(loaded, task.pipeline_tag):
        raise UsageError(f"'{name}' cannot be asked about pictures: {reason}")

    def see(picture: np.ndarray) -> np.ndarray:
        return preprocess(loaded.processor, [torch.from_numpy(picture).permute(2, 0, 1)]).numpy()

    def outputs(pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            output = loaded.model(pixel_values=torch.from_numpy(pixel_values))
        return {name: tensor.numpy() for name, tensor in deployed_tensors(output).items()}

    return DeviceModel(name, task.pipeline_tag, loaded.label_names, see, outputs)

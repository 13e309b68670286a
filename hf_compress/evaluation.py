"""Measuring a model that already exists."""

from __future__ import annotations

from typing import Any

import torch

from hf_compress.data import load_data
from hf_compress.data.images import input_size
from hf_compress.errors import RunError
from hf_compress.hub.load import load
from hf_compress.measure.cost import cost
from hf_compress.recipe import DataSection
from hf_compress.training import evaluate


def evaluate_folder(name: str, section: DataSection, split: str, seed: int, trust_remote_code: bool) -> dict[str, Any]:
    """Return quality and cost of a saved model.

    Args:
        name: folder or Hub id.
        section: the images.
        split: `train`, `validation` or `test`.
        seed: of the division into splits.

    Raises:
        RunError: the model's labels are not the data's.
    """
    loaded = load(name, trust_remote_code=trust_remote_code)
    data = load_data(section, seed)
    if not data.labelled or not data.align_labels(loaded.label_names):
        raise RunError(
            f"the labels of {section.path} are not those of {name}: {', '.join(loaded.label_names[:5])} ..."
        )
    return {
        "model": name,
        "split": {"name": split, **data.facts["splits"][split]},
        "quality": evaluate(loaded.model, loaded.processor, data, split),
        "cost": cost(loaded.model, torch.zeros(1, 3, *input_size(loaded.processor))),
    }

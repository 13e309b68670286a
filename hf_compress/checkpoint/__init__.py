"""Checkpoints that `from_pretrained` reloads: safetensors, dense or sparse, and what changed in `config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel


def save(model: PreTrainedModel, folder: str | Path, processor: BaseImageProcessor | None = None) -> None:
    """Write a model in Hub form.

    The folder reloads with `AutoModelForImageClassification.from_pretrained`. Where channels were removed, or where so
    many weights are zero that sparse storage makes the file smaller, `import hf_compress` must come first, or
    `trust_remote_code=True` runs the folder's `modeling_hf_compress.py`. From then on `model.save_pretrained` and
    `model.push_to_hub` store the model in the same form.

    Args:
        model: any transformers model, channels removed or not.
        folder: made when missing. Of what lies there, an earlier model is replaced, as by `save_pretrained`.
        processor: image processor to write beside it.

    Raises:
        UsageError: `folder` is a file.
    """
    from hf_compress.checkpoint.quantizer import attach
    from hf_compress.ground.errors import UsageError

    if Path(folder).is_file():
        raise UsageError(f"'{folder}' is a file: name a folder for the model")

    attach(model)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def load_like(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Return, in float32, in eval mode and with channels-last weights, the model that `save` wrote into `folder`.

    `model` is an earlier state of it, which tells its class; channels or layers may have been changed since.
    """
    import torch

    from hf_compress.checkpoint import quantizer  # noqa: F401  (registers the form in which `save` writes)
    from hf_compress.ground.tensors import use_channels_last, use_torch_momentum

    loaded = type(model).from_pretrained(folder, dtype=torch.float32)
    use_torch_momentum(loaded)
    use_channels_last(loaded)
    return loaded.eval()


def loads_with(config: dict[str, Any]) -> str:
    """Return what a folder needs besides transformers to be loaded, from what its `config.json` says.

    Returns:
        `transformers`: nothing. `generated_code`: `trust_remote_code=True`, which runs `modeling_hf_compress.py` of
        the folder, or this package, with which none of its code runs. `custom_code`: `trust_remote_code=True`, for
        the architecture itself. `hf_compress`: this package.
    """
    from hf_compress.checkpoint.code import is_generated

    code, compressed = config.get("auto_map") or {}, "quantization_config" in config
    if "AutoConfig" in code and (not compressed or any(map(is_generated, code.values()))):
        return "custom_code"
    if not compressed:
        return "transformers"
    return "generated_code" if any(map(is_generated, code.values())) else "hf_compress"

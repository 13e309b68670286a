"""Makes plain `from_pretrained` and `save_pretrained` handle compressed models, through transformers' quantizer hooks.

Nothing is quantized here: the hooks that change a model between its construction and the loading of its weights, and
that change what is stored, are what pruned and rewritten checkpoints need, and transformers offers them under that
name. A reloaded model trains, casts, compiles and saves like any other.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_compress.checkpoint.code import forget_code, write_code
from hf_compress.checkpoint.rewrites import Rewrites, apply_rewrites, check_rewrites, record_rewrites
from hf_compress.checkpoint.shapes import Shapes, apply_shapes, is_well_formed, record_shapes
from hf_compress.checkpoint.sparse_files import (
    Decoder,
    decode_in_place,
    encode_state_dict,
    recorded_names,
    with_decoding,
)
from hf_compress.ground.errors import RunError

if TYPE_CHECKING:
    import os

    import torch
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightTransform

NAME = "hf_compress"
HOW_TO_LOAD = "pip install hf-compress, then `import hf_compress` before from_pretrained"
METHOD = f"{NAME}: {HOW_TO_LOAD}"
"""What stands in checkpoints: without this package, transformers prints it as an unknown type, and nothing else."""


class CheckpointConfig(QuantizationConfigMixin):
    """The `quantization_config` of a compressed checkpoint.

    Args:
        shapes: see `checkpoint.shapes.record_shapes`.
        sparse_records: how many tensors of the checkpoint have a record; 0 without sparse storage.
        rewrites: see `checkpoint.rewrites.record_rewrites`; the shapes are those of pruning after them.

    Raises:
        RunError: they are of another form.
    """

    def __init__(
        self,
        shapes: Shapes | None = None,
        sparse_records: int = 0,
        rewrites: Rewrites | None = None,
        **kwargs: Any,
    ):
        self.quant_method = METHOD
        self.shapes = shapes or {}
        self.sparse_records = sparse_records
        self.rewrites = rewrites or {}
        if not is_well_formed(self.shapes) or type(sparse_records) is not int or sparse_records < 0:
            raise RunError("'quantization_config' of config.json is damaged or was changed: get the file again")
        check_rewrites(self.rewrites)


class CompressionQuantizer(HfQuantizer):
    """Builds rewritten layers, resizes the modules that pruning changed, and stores and reads sparse weights."""

    requires_calibration = False

    def __init__(self, quantization_config: CheckpointConfig, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        self.recorded: frozenset[str] = frozenset()

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        apply_rewrites(model, self.quantization_config.rewrites)
        apply_shapes(model, self.quantization_config.shapes)
        if self.quantization_config.sparse_records and checkpoint_files is not None:
            self.recorded = recorded_names(checkpoint_files, self.quantization_config.sparse_records)
        return model

    def update_weight_conversions(
        self, weight_conversions: list[WeightTransform], model: PreTrainedModel
    ) -> list[WeightTransform]:
        return with_decoding(weight_conversions, model, self.recorded) if self.recorded else weight_conversions

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """Leave what `Decoder` reads as it is: it casts after decoding."""
        if isinstance(converter, Decoder):
            converter.dtype = dtype
            return None
        return super().get_new_dtype(converter, param, dtype)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Make the model an ordinary one again, that is stored in its compressed form when it is saved."""
        conversions = getattr(model, "_weight_conversions", None)
        self.remove_quantization_config(model)
        if conversions is not None:
            model._weight_conversions = [entry for entry in conversions if not isinstance(entry, Decoder)]
        attach(model, self)
        return model

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        """Called by `save_pretrained`: return the state dict to store, and describe it in the model's config.

        Of a model with adapters only these are stored, as ever.
        """
        if getattr(model, "_hf_peft_config_loaded", False):
            return None, {}
        forget_code(model.config)
        state, records = encode_state_dict(model)
        shapes, rewrites = record_shapes(model), record_rewrites(model)
        if shapes or records or rewrites:
            model.config.quantization_config = CheckpointConfig(shapes, records, rewrites)
        elif hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        return state, {}

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def attach(model: PreTrainedModel, quantizer: CompressionQuantizer | None = None) -> None:
    """Make `save_pretrained` and `push_to_hub` of `model` store its compressed form, with code that rebuilds it.

    A model that another quantizer loaded is left alone.
    """
    if getattr(model, "hf_quantizer", None) is None:
        model.hf_quantizer = quantizer or CompressionQuantizer(CheckpointConfig())
        model.register_load_state_dict_pre_hook(decode_in_place)
        model.save_pretrained = MethodType(save_pretrained, model)


def rebuild(model: PreTrainedModel) -> None:
    """Give a model that its config alone built the layers and widths that the config records, with random weights.

    Raises:
        RunError: the config does not describe a compressed form of this architecture.
    """
    recorded = getattr(model.config, "quantization_config", None)
    if not isinstance(recorded, dict) or recorded.get("quant_method") not in (NAME, METHOD):
        return
    compressed = CheckpointConfig(**recorded)
    apply_rewrites(model, compressed.rewrites)
    apply_shapes(model, compressed.shapes)
    for module in map(model.get_submodule, compressed.shapes):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # random numbers whose size goes by the width
        module._is_hf_initialized = False
    model.initialize_weights()
    del model.config.quantization_config


def save_pretrained(model: PreTrainedModel, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
    """Take the place of a model's own `save_pretrained`, which tells the quantizer everything but the folder."""
    type(model).save_pretrained(model, save_directory, *args, **kwargs)
    if kwargs.get("is_main_process", True):
        write_code(model, save_directory)


for name in (NAME, METHOD):  # set, not registered: a folder's own code may have come first
    AUTO_QUANTIZATION_CONFIG_MAPPING[name] = CheckpointConfig
    AUTO_QUANTIZER_MAPPING[name] = CompressionQuantizer

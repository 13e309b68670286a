"""Makes plain `from_pretrained` rebuild a pruned model, through transformers' quantizer hooks.

Nothing is quantized here: the hook that resizes a model between its construction and the loading of its weights
is what a pruned checkpoint needs, and transformers offers it under that name. A reloaded model trains, casts,
compiles and saves like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_compress.checkpoint.shapes import Shapes, apply_shapes, record_shapes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "hf_compress"
HOW_TO_LOAD = "pip install hf-compress, then `import hf_compress` before from_pretrained"


@register_quantization_config(METHOD)
class CompressionShapes(QuantizationConfigMixin):
    """The `quantization_config` of a pruned checkpoint.

    Args:
        shapes: see `checkpoint.shapes.record_shapes`.
    """

    def __init__(self, shapes: Shapes | None = None, **kwargs: Any):
        self.quant_method = METHOD
        self.how_to_load = HOW_TO_LOAD
        self.shapes = shapes or {}


@register_quantizer(METHOD)
class ShapeQuantizer(HfQuantizer):
    """Resizes the modules that pruning changed before their weights are loaded."""

    requires_calibration = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        apply_shapes(model, self.quantization_config.shapes)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        """Make the model an ordinary one again; the shapes stay in its config, for `save_pretrained`."""
        self.remove_quantization_config(model)
        model.config.quantization_config = self.quantization_config
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def attach_shapes(model: PreTrainedModel) -> None:
    """Record in `model.config` what pruning changed, ready for `save_pretrained`; nothing for an unpruned model."""
    shapes = record_shapes(model)
    if shapes:
        model.config.quantization_config = CompressionShapes(shapes)
    elif hasattr(model.config, "quantization_config"):
        del model.config.quantization_config

"""Training for int8, and what it was worth."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel

from hf_compress.data.images import batches, spread
from hf_compress.ground.errors import RunError
from hf_compress.models.load import LoadedModel
from hf_compress.steps.quantization.config import QuantizeSection
from hf_compress.steps.quantization.simulation import ROUNDED_LAYERS, int8_simulated
from hf_compress.training.context import Context
from hf_compress.training.fitting import quality_kept, train
from hf_compress.training.predicting import evaluate

IMAGES = 256


def train_for_int8(model: PreTrainedModel, context: Context, config: QuantizeSection) -> dict[str, Any]:
    """Train a model in place with int8 simulated, up to the epoch that is best so.

    Returns:
        Details for the report: those of the training, and as `simulated_int8` how many layers were simulated, and the
        task's deciding metric on validation images: `in_floats` and `before` the training, and `after` it.

    Raises:
        RunError: the model has no layer for int8.
    """
    if not any(isinstance(module, ROUNDED_LAYERS) for module in model.modules()):
        raise RunError(
            f"{type(model).__name__} has no convolution and no linear layer, which are what int8 makes smaller and "
            "faster: leave out the step 'quantize'"
        )
    metric, model = context.task.deciding, model.eval()
    teacher = None
    if not config.labels_only:
        teacher = context.teacher or LoadedModel(copy.deepcopy(model), context.processor, "the model in floats")
    shown = batches(spread(context.data.train, IMAGES), context.processor, config.batch_size)
    in_floats = _validated(model, context)
    with int8_simulated(model, (batch["pixel_values"] for batch in shown)) as simulation:
        context.log(f"int8 in {len(simulation.layers)} layers: validation {metric.words} {in_floats:.4f} in floats")
        details = train(model, context, config, teacher=teacher, ranges=simulation.learnt)
    before, after = details["began"][f"validation_{metric.name}"], quality_kept(details, metric)
    found = {"layers": len(simulation.layers), "in_floats": in_floats, "before": before, "after": after}
    return details | {"simulated_int8": found}


def _validated(model: PreTrainedModel, context: Context) -> float:
    return evaluate(model, context.processor, context.data, "validation", context.task)[context.task.deciding.name]

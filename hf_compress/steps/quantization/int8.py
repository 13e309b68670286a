"""An 8-bit ONNX model by Neural Compressor's PT2E quantisation, compared with the same model in floats."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress.checkpoint.export.base import Logits
from hf_compress.data.images import batches, input_size, spread
from hf_compress.errors import RunError, UsageError
from hf_compress.measure.latency import measure_latency
from hf_compress.steps.base import Context
from hf_compress.steps.quantization import QuantizeConfig
from hf_compress.training.predicting import evaluate

FILE = "model_int8.onnx"
BATCH = 32
BATCH_SIZES = (1, 32)


class OnnxClassifier(nn.Module):
    """An ONNX model that is called like a classifier of transformers; ONNX Runtime runs it on the CPU."""

    def __init__(self, file: Path):
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxClassifier:
        return self  # a session cannot be copied, nor changed

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        (logits,) = self.session.run(None, {self.input: pixel_values.contiguous().numpy(force=True)})
        return ImageClassifierOutput(logits=torch.from_numpy(logits).to(pixel_values.device))


def quantize(model: PreTrainedModel, context: Context, config: QuantizeConfig) -> dict[str, Any]:
    """Write the 8-bit model and return how it compares with the float model, both run by ONNX Runtime.

    Returns:
        `file`, and for `float32` and `int8`: `bytes`, `validation_accuracy` and `latency`.

    Raises:
        UsageError: Neural Compressor, ONNX or ONNX Runtime is not installed.
        RunError: the model cannot be exported.
    """
    for package in ("neural_compressor", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UsageError(f"quantize needs {package}: pip install 'hf-compress[neural-compressor]'")
    calibration = batches(spread(context.data.train, config.images), context.processor, BATCH)
    images = [batch["pixel_values"] for batch in calibration]
    exported = Logits(model).eval()
    file = (context.artifacts or context.work_folder) / FILE
    with tempfile.TemporaryDirectory() as folder:
        float_file = Path(folder) / "float32.onnx"
        write_onnx(exported, images[0], float_file)
        write_onnx(quantized_graph(exported, images), images[0], file)
        files = {"float32": float_file, "int8": file}
        models = {name: OnnxClassifier(path) for name, path in files.items()}
        image = torch.zeros(1, 3, *input_size(context.processor))
        latencies = measure_latency(list(models.values()), [image, image], BATCH_SIZES, config.repeats)
        details: dict[str, Any] = {"file": FILE, "runtime": "onnxruntime"}
        for (name, onnx_model), latency in zip(models.items(), latencies, strict=True):
            quality = evaluate(onnx_model, context.processor, context.data, "validation")
            details[name] = {
                "bytes": files[name].stat().st_size,
                "validation_accuracy": quality["accuracy"],
                "latency": latency,
            }
    context.log(
        f"int8: {details['int8']['bytes']} bytes (float32: {details['float32']['bytes']}), validation accuracy "
        f"{details['int8']['validation_accuracy']:.4f} (float32: {details['float32']['validation_accuracy']:.4f})"
    )
    return details


def quantized_graph(model: nn.Module, images: list[Tensor]) -> nn.Module:
    """Return the graph of `model` with 8-bit weights (one scale a channel) and activations.

    Neural Compressor's `convert` keeps the weights in floats before their quantizer; only its quantizer folds them.

    Args:
        model: takes images and returns logits.
        images: batches that set the ranges of the activations, shape (batch, 3, height, width).

    Raises:
        RunError: torch.export does not follow the model.
    """
    from neural_compressor.torch.algorithms.pt2e_quant import W8A8PT2EQuantizer
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import StaticQuantConfig

    logging.getLogger("neural_compressor").setLevel(logging.ERROR)
    try:
        graph = export(model, (images[0],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    except RuntimeError as error:
        raise RunError(f"{type(model).__name__} cannot be quantized: torch.export does not follow it") from error
    quantizer = W8A8PT2EQuantizer(StaticQuantConfig())
    graph = quantizer.prepare(graph)
    with torch.no_grad():
        for batch in images:
            graph(batch)
    return quantizer.convert(graph, fold_quantize=True)


def write_onnx(model: nn.Module, images: Tensor, file: Path) -> None:
    """Write a model that takes any number of images as one ONNX file."""
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "Exporting a model while it is in training mode")  # graphs have no mode
        torch.onnx.export(
            model,
            (images,),
            file,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
        )

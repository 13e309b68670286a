"""OpenVINO's intermediate representation."""

from pathlib import Path

from hf_compress.device.opening import open_openvino
from hf_compress.runtimes.base import INPUT, Call, Exportable, Runtime, register_runtime


@register_runtime("openvino")
class OpenVino(Runtime):
    """An XML file with the graph and a BIN file with the weights; labels and preprocessing are its runtime info.

    Weights are stored and computed in float32: OpenVINO's defaults (float16 on disk, bfloat16 where the processor has
    it) move logits by tenths.
    """

    suffix = ".xml"
    package = "openvino"
    extra = "openvino"
    int8 = True

    def write(self, model: Exportable, file: Path) -> None:
        import openvino

        converted = openvino.convert_model(model.program(dynamic_batch=True))
        converted.reshape({INPUT: [-1, *model.image.shape[1:]]})
        if model.calibration:
            converted = _quantized(model, converted)
        for output, name in zip(converted.outputs, model.outputs, strict=True):
            output.get_tensor().set_names({name})
        for key, text in model.metadata.items():
            converted.set_rt_info(text, ["hf_compress", key])
        openvino.save_model(converted, file, compress_to_fp16=False)

    def load(self, file: Path, threads: int) -> Call:
        return open_openvino(file, threads)

    def files(self, file: Path) -> list[Path]:
        return [file, file.with_suffix(".bin")]


def _quantized(model: Exportable, converted):
    """Quantise weights per channel and activations with the ranges of the calibration images (NNCF).

    Weights have seven bits: x86 processors without VNNI add pairs of 8-bit products in 16 bits, which overflow.
    """
    import logging

    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    whole = RangeEstimatorParametersSet.MINMAX  # by default the mean of each image's, which cuts the loudest off
    images = [image.numpy() for image in model.calibration]
    return nncf.quantize(
        converted,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER if _attends(converted) else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE, activations_range_estimator_params=whole
        ),
    )


def _attends(converted) -> bool:
    return any(node.get_type_name() in ("ScaledDotProductAttention", "Softmax") for node in converted.get_ops())

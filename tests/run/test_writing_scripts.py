"""No script is written that would see or say something else than the model."""

import pytest
import torch
from detectors import SIDE, rt_detr, yolos
from shapes import PROCESSOR, tiny_segmenter
from transformers import MobileNetV2ImageProcessor, RTDetrImageProcessor, ViTImageProcessor, YolosImageProcessor

from hf_compress.models.load import LoadedModel
from hf_compress.run.scripts import unscripted, write_script

PIXELS, OBJECTS = "image-segmentation", "object-detection"
SIZE = {"height": SIDE, "width": SIDE}


class Elsewhere(RTDetrImageProcessor):
    def post_process_object_detection(self, outputs, **options):
        found = super().post_process_object_detection(outputs, **options)
        return [each | {"boxes": each["boxes"] + 0.1} for each in found]


def written(model, processor, task, folder, runtime="onnx"):
    """Return what the row of a file says of its script."""
    row = {"runtime": runtime, "precision": "float32", "file": "model.onnx", "max_difference": {"logits": 0.0}}
    write_script(row, folder, task, unscripted(LoadedModel(model, processor, "m"), task))
    assert ("script" in row) == (folder / "predict_onnx.py").is_file()
    return row.get("no_script", row.get("script"))


@pytest.mark.parametrize("model", [rt_detr, yolos])
def test_objects_are_found_as_the_processor_finds_them_or_not_at_all(model, tmp_path):
    softmax = model is yolos
    processor = (YolosImageProcessor if softmax else RTDetrImageProcessor)(size=SIZE)
    assert written(model(), processor, OBJECTS, tmp_path) == "predict_onnx.py"
    (tmp_path / "predict_onnx.py").unlink()
    for other in (RTDetrImageProcessor if softmax else Elsewhere), ViTImageProcessor:
        assert "finds other objects in what the model says" in written(model(), other(size=SIZE), OBJECTS, tmp_path)


@pytest.mark.parametrize(
    ("names", "processor", "task", "runtime", "says"),
    [
        (3, PROCESSOR, PIXELS, "onnx", "predict_onnx.py"),
        (256, PROCESSOR, PIXELS, "onnx", "predict_onnx.py"),
        (257, PROCESSOR, PIXELS, "onnx", "more than the 256 classes"),
        (3, MobileNetV2ImageProcessor(), PIXELS, "onnx", "cuts the edges of pictures off"),
        (3, PROCESSOR, "image-feature-extraction", "onnx", "what models of its kind say is not known here"),
        (3, PROCESSOR, None, "onnx", "what models of its kind say is not known here"),
        (3, PROCESSOR, PIXELS, "another", "the runtime another is another package's"),
    ],
)
def test_a_script_names_pixels_where_it_can(names, processor, task, runtime, says, tmp_path):
    model = tiny_segmenter(names=[str(number) for number in range(names)], hidden=8)
    with torch.no_grad():
        assert says in written(model, processor, task, tmp_path, runtime)

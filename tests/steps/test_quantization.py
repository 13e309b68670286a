"""The `quantize` step: an 8-bit ONNX file beside a checkpoint that stays as it was."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from hf_compress import Recipe, compress
from hf_compress.steps.quantization.int8 import OnnxClassifier, quantized_graph, write_onnx


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = Recipe.model_validate(
        {
            "data": {"path": "digits"},
            "student": {"model": "resnet18", "width": 0.125, "image_size": 16},
            "steps": [
                {"finetune": {"epochs": 3, "learning_rate": 3e-3}},
                {"prune": {"granularity": "weight", "amount": 0.3, "iterative": False, "recovery": {"epochs": 0}}},
                {"quantize": {"images": 64, "repeats": 3}},
            ],
            "measure": {"repeats": 3},
        }
    )
    return compress(recipe, tmp_path_factory.mktemp("run") / "run", log=lambda line: None)


@pytest.mark.long
def test_the_run_folder_holds_an_8_bit_model_that_is_smaller_and_as_good(run):
    details = run.report["rows"][-1]["details"]
    assert details["int8"]["bytes"] == (run.folder / details["file"]).stat().st_size
    assert details["int8"]["bytes"] < 0.65 * details["float32"]["bytes"]
    assert details["float32"]["validation_accuracy"] > 0.8
    assert details["int8"]["validation_accuracy"] == pytest.approx(details["float32"]["validation_accuracy"], abs=0.06)
    assert {"batch_1", "batch_32"} == details["int8"]["latency"].keys()


@pytest.mark.long
def test_the_weights_are_8_bit_and_any_number_of_images_goes_in(run):
    model = onnx.load(run.folder / "model_int8.onnx")
    kinds = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer if tensor.dims}
    assert "INT8" in kinds
    assert sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8) > 150_000
    outputs = OnnxClassifier(run.folder / "model_int8.onnx")(torch.zeros(5, 3, 16, 16))
    assert outputs.logits.shape == (5, 10)


class OnAnotherDevice(torch.Tensor):
    """Refuses what a tensor on a GPU refuses."""

    def numpy(self, *, force=False):
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.as_subclass(torch.Tensor).numpy()


@pytest.mark.long
def test_images_may_be_on_another_device(run):
    model = OnnxClassifier(run.folder / "model_int8.onnx")
    images = torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(images.as_subclass(OnAnotherDevice)).logits, model(images).logits)


@pytest.mark.long
def test_the_checkpoint_stays_in_floats_with_its_zeros(run):
    model = AutoModelForImageClassification.from_pretrained(run.folder)
    assert model.dtype == torch.float32
    assert run.report["rows"][-1]["quality"] == run.report["rows"][-2]["quality"]
    zeros = (model.resnet.encoder.stages[0].layers[0].layer[0].convolution.weight == 0).float().mean().item()
    assert zeros == pytest.approx(0.3, abs=0.01)


def test_the_quantized_graph_is_close_to_the_model_and_its_onnx_file_equal_to_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    images = torch.randn(16, 3, 8, 8)
    graph = quantized_graph(model, [images])
    with torch.no_grad():
        expected, quantized = model(images), graph(images)
    assert not torch.equal(quantized, expected)
    assert (quantized - expected).abs().max() < 0.03 * expected.abs().max()
    write_onnx(graph, images, tmp_path / "model.onnx")
    exact = onnxruntime.SessionOptions()  # int8 kernels of processors without VNNI overflow: these compute in floats
    exact.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", exact)
    (logits,) = session.run(None, {"pixel_values": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), quantized, atol=1e-5)

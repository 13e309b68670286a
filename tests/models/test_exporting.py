"""All tensors that a model gives go into its file and come out of it."""

import pytest
import torch
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from hf_compress.ground.outputs import output_tensors
from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.exporting import DeployedModel, exportable
from hf_compress.models.load import LoadedModel
from hf_compress.runtimes import runtime


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic")
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return LoadedModel(ResNetModel(config).eval(), processor, "a backbone")


@pytest.mark.parametrize(
    "name", ["onnx", "pt2", "openvino", pytest.param("executorch", marks=pytest.mark.long), "ncnn"]
)
def test_a_file_gives_all_outputs_of_a_model(loaded, name, tmp_path):
    pytest.importorskip({"pt2": "torch", "onnx": "onnxruntime"}.get(name, name))
    model, chosen = exportable(loaded.model, torch.zeros(1, 3, 32, 32)), runtime(name)
    assert model.outputs == ["last_hidden_state", "pooler_output"]
    chosen.write(model, tmp_path / f"model{chosen.suffix}")
    call = chosen.load(tmp_path / f"model{chosen.suffix}", threads=1)
    deployed = DeployedModel(call, model.outputs, loaded.model, chosen.batches)
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(
            output_tensors(deployed(images)), output_tensors(loaded.model(images)), rtol=1e-3, atol=1e-4
        )


def test_channels_last_weights_become_ordinary_ones_in_the_copy_that_is_exported(loaded):
    use_channels_last(loaded.model)
    before = [weight.stride() for weight in loaded.model.parameters()]
    weights = list(exportable(loaded.model, torch.zeros(1, 3, 32, 32)).module.parameters())
    assert all(weight.stride() == torch.empty(weight.shape).stride() for weight in weights)
    assert [weight.stride() for weight in loaded.model.parameters()] == before

"""All tensors that a model gives go into its file and come out of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ViTImageProcessor

import hf_compress
from hf_compress.ground.outputs import output_tensors
from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.exporting import DeployedModel, exportable
from hf_compress.models.load import LoadedModel
from hf_compress.runtimes import runtime
from hf_compress.runtimes.base import RUNTIMES
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


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
    pytest.importorskip(RUNTIMES.get(name).package)
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


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    "name",
    ["onnx", "pt2", "openvino", pytest.param("executorch", marks=pytest.mark.long), "ncnn", "coreml", "litert"],
)
def test_no_file_tells_where_the_code_lies_that_it_came_from(loaded, name, int8, tmp_path):
    pytest.importorskip(RUNTIMES.get(name).package)
    model, chosen = exportable(loaded.model, torch.zeros(1, 3, 32, 32)), runtime(name)
    if int8 and not chosen.int8:
        pytest.skip("it has no int8")
    images = [torch.randn(1, 3, 32, 32) for _ in range(4 * int8)]
    chosen.write(replace(model, calibration=images), tmp_path / f"model{chosen.suffix}")
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for module in (hf_compress, torch):
        assert not any(str(Path(module.__file__).parents[1]).encode() in content for content in written)


def test_channels_last_weights_become_ordinary_ones_in_the_copy_that_is_exported(loaded):
    use_channels_last(loaded.model)
    before = [weight.stride() for weight in loaded.model.parameters()]
    weights = list(exportable(loaded.model, torch.zeros(1, 3, 32, 32)).module.parameters())
    assert all(weight.stride() == torch.empty(weight.shape).stride() for weight in weights)
    assert [weight.stride() for weight in loaded.model.parameters()] == before


def test_a_checkpoint_that_asks_for_hidden_states_gives_what_every_other_gives(tmp_path):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    for name, asks in (("usual", False), ("asking", True)):
        config = ResNetConfig(**sizes, output_hidden_states=asks)
        hf_compress.save(ResNetForImageClassification(config), tmp_path / name, PROCESSOR)
    usual, asking = (hf_compress.load(str(tmp_path / name)).model for name in ("usual", "asking"))
    image = torch.zeros(1, 3, 32, 32)
    assert exportable(asking, image).outputs == ["logits"]
    assert exportable(asking, image).module(image).shape == (1, 3)
    groups = [ChannelPruner(model, image, PruneSection(), set()).groups(model) for model in (usual, asking)]
    assert [group.name for group in groups[0]] == [group.name for group in groups[1]] and groups[0]

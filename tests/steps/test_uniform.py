"""`layout: config`: pruned widths that the architecture's own config expresses, uniform within each of its numbers."""

import json

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    BitConfig,
    ConvNextConfig,
    Dinov2Config,
    MobileNetV2Config,
    ResNetConfig,
    ViTConfig,
)

from hf_compress import compress
from hf_compress.checkpoint.shapes import record_shapes
from hf_compress.checkpoint.widths import rebuilt
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.run.recipe import Recipe
from hf_compress.sections.base import validate
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.uniform import UniformPruner

SPLITS = {"train": "train[:200]", "validation": "train[200:300]", "test": "train[300:400]"}
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 4,
}


def model_of(config):
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def pruner(model, exclude=(), **options):
    return UniformPruner(model, IMAGE, PruneSection(layout="config", **{"round_to": 4} | options), set(exclude))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            ResNetConfig(
                embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], layer_type="bottleneck", num_labels=4
            ),
            {"embedding_size": 8, "hidden_sizes": [8, 16]},
        ),
        (
            ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], layer_type="basic", num_labels=4),
            {"embedding_size": 8, "hidden_sizes": [8, 16]},
        ),
        (ViTConfig(**TRANSFORMER, intermediate_size=48), {"intermediate_size": 24, "num_attention_heads": 4}),
        (Dinov2Config(**TRANSFORMER, mlp_ratio=4), {"mlp_ratio": 2}),
        (
            ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], num_labels=4),
            {"hidden_sizes": [8, 16]},
        ),
        (MobileNetV2Config(depth_multiplier=0.5, image_size=32, num_labels=4), {"depth_multiplier": 0.25}),
    ],
    ids=["resnet-bottleneck", "resnet-basic", "vit", "dinov2", "convnext", "mobilenet_v2"],
)
def test_half_of_every_width_goes_into_the_config(config, expected):
    model = model_of(config)
    parameters, macs = count_parameters(model), count_macs(model, IMAGE)
    pruner(model).prune(model, 0.5)
    assert {name: getattr(model.config, name) for name in expected} == expected
    assert count_parameters(model) < 0.9 * parameters and count_macs(model, IMAGE) < 0.9 * macs
    assert record_shapes(model) == {}
    with torch.no_grad():
        assert torch.allclose(rebuilt(model)(IMAGE).logits, model(IMAGE).logits, atol=1e-6)


def test_the_least_important_units_of_each_layer_go():
    model = model_of(ViTConfig(**TRANSFORMER, intermediate_size=16))
    layers = [layer.mlp for layer in model.vit.layers]
    kept = []
    with torch.no_grad():
        for number, mlp in enumerate(layers):
            weak = [n for n in range(16) if n % 2 == number % 2]
            mlp.fc1.weight[weak] *= 1e-3
            mlp.fc2.weight[:, weak] *= 1e-3
            kept.append(mlp.fc1.weight[[n for n in range(16) if n not in weak]].clone())
    pruner(model).prune(model, 0.5)
    for mlp, weight in zip(layers, kept, strict=True):
        assert torch.equal(mlp.fc1.weight, weight)


def test_what_the_config_cannot_express_is_named_and_stays():
    model = model_of(ViTConfig(**TRANSFORMER, intermediate_size=48))
    channels = pruner(model)
    assert [str(knob) for knob in channels.knobs] == ["intermediate_size"]
    channels.prune(model, 0.5)
    query = "vit.layers.0.attention.q_proj"
    assert model.get_submodule(query).out_features == 32
    assert channels.protected[query] == "hidden_size sets more than widths of layers: use layout: free"
    assert channels.sparsity(model) == pytest.approx(0.5)


def test_a_second_round_refers_to_the_unpruned_model():
    model = model_of(ViTConfig(**TRANSFORMER, intermediate_size=48))
    channels = pruner(model)
    channels.prune(model, 0.25)
    assert model.config.intermediate_size == 36
    channels.prune(model, 0.5)
    assert model.config.intermediate_size == 24


def test_an_architecture_without_such_numbers_is_an_error_that_names_a_layer():
    config = BitConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], num_groups=4, num_labels=4)
    with pytest.raises(RunError, match=r"not even that of layer 'bit\.embedder\.convolution'.*layout: free"):
        pruner(model_of(config))


def test_an_excluded_layer_keeps_its_number_whole():
    model = model_of(ViTConfig(**TRANSFORMER, intermediate_size=48))
    with pytest.raises(RunError, match=r"intermediate_size also sets the width of 'vit\.layers\.1\.mlp"):
        pruner(model, exclude=["vit.layers.1.mlp.fc1"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"granularity": "weight"}, "layout does nothing here: widths are pruned by granularity 'channel'"),
        ({"scope": "global"}, "layout 'config' prunes uniformly"),
    ],
)
def test_layout_config_needs_uniform_channels(option, message):
    with pytest.raises(UsageError, match=message):
        validate(PruneSection, {"layout": "config", **option})


@pytest.mark.long
def test_a_whole_run_leaves_an_ordinary_folder(tmp_path):
    recipe = Recipe.from_dict(
        {
            "student": {"model": "resnet18", "width": 0.25, "image_size": 16},
            "data": {"path": "digits", "splits": SPLITS},
            "measure": {"batch_size": 4, "repeats": 3},
            "steps": [
                {"prune": {"layout": "config", "amount": 0.25, "iterative": False, "recovery": {"epochs": 1}}},
            ],
        }
    )
    run = compress(recipe, tmp_path / "run", log=lambda line: None)
    config = json.loads((run.folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["hidden_sizes"] == [16, 24, 48, 96]
    assert run.report["rows"][-1]["cost"]["parameters"] < 0.7 * run.report["rows"][0]["cost"]["parameters"]

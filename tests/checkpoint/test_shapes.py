"""A pruned model reloads with plain `from_pretrained` and is an ordinary model afterwards."""

import json

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_compress import save
from hf_compress.checkpoint.shapes import apply_shapes, record_shapes
from hf_compress.ground.errors import RunError
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner

IMAGE = torch.randn(2, 3, 32, 32)


@pytest.fixture(params=["resnet18", "mobilenet_v2"])
def pruned(request):
    torch.manual_seed(0)
    model = build_registered(request.param, list("abcd"), width=0.25, image_size=32).model
    ChannelPruner(model, IMAGE[:1], PruneSection(round_to=4), set()).prune(model, 0.5)
    return model.to(memory_format=torch.contiguous_format)


def reload(folder):
    return AutoModelForImageClassification.from_pretrained(folder).eval()


def test_logits_are_equal_to_the_last_bit(pruned, tmp_path):
    save(pruned, tmp_path)
    again = reload(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IMAGE).logits, pruned(IMAGE).logits)
    recorded = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert recorded["quant_method"].startswith("hf_compress: pip install hf-compress, then `import hf_compress`")


def test_a_reloaded_model_saves_casts_and_trains_like_any_other(pruned, tmp_path):
    save(pruned, tmp_path / "first")
    again = reload(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    with torch.no_grad():
        assert torch.equal(reload(tmp_path / "second")(IMAGE).logits, pruned(IMAGE).logits)
    assert again.to(torch.bfloat16).dtype == torch.bfloat16
    assert again.half().dtype == torch.float16
    again = reload(tmp_path / "first")
    before = [p.clone() for p in again.parameters()]
    rows = [{"pixel_values": IMAGE[0], "labels": 1}] * 4
    arguments = TrainingArguments(str(tmp_path / "t"), max_steps=1, report_to="none", use_cpu=True)
    Trainer(again, arguments, train_dataset=rows).train()
    assert any(not torch.equal(old, new) for old, new in zip(before, again.parameters(), strict=True))


def test_a_reloaded_model_can_be_pruned_again(pruned, tmp_path):
    save(pruned, tmp_path / "first")
    again = reload(tmp_path / "first")
    ChannelPruner(again, IMAGE[:1], PruneSection(round_to=4), set()).prune(again, 0.3)
    again.to(memory_format=torch.contiguous_format)
    save(again, tmp_path / "second")
    with torch.no_grad():
        assert torch.equal(reload(tmp_path / "second")(IMAGE).logits, again(IMAGE).logits)


def test_an_unpruned_model_needs_no_shapes(tmp_path):
    model = build_registered("resnet18", list("abcd"), width=0.25).model
    save(model, tmp_path)
    assert record_shapes(model) == {}
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_shapes_of_another_architecture_name_the_module(pruned):
    other = build_registered("resnet18", list("abcd"), width=0.25).model
    shapes = {"some.other.layer": next(iter(record_shapes(pruned).values()))}
    with pytest.raises(RunError, match=r"'some\.other\.layer'"):
        apply_shapes(other, shapes)


def test_numbers_of_modules_without_tensors_of_their_own_are_recorded():
    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, image_size=32, num_labels=4
    )
    model = ViTForImageClassification(config).eval()
    ChannelPruner(model, IMAGE[:1], PruneSection(round_to=4), set()).prune(model, 0.5)
    shapes = record_shapes(model)
    assert shapes["vit.layers.0.attention"] == {"attributes": {"num_attention_heads": 2}, "tensors": {}}
    assert shapes["vit.embeddings"]["tensors"] == {
        "cls_token": [None, None, 8],
        "position_embeddings": [None, None, 8],
    }
    again = ViTForImageClassification(config)
    apply_shapes(again, json.loads(json.dumps(shapes)))
    assert again.vit.layernorm.normalized_shape == (8,)
    assert record_shapes(again) == shapes


def test_a_checkpoint_of_version_0_1_loads():
    """It records no tuples, and no module without tensors."""
    model = build_registered("resnet18", list("abcd"), width=0.25).model
    name = "resnet.encoder.stages.0.layers.0.layer.0"
    old = {
        f"{name}.convolution": {"attributes": {"out_channels": 8}, "tensors": {"weight": [8, 16, 3, 3]}},
        f"{name}.normalization": {
            "attributes": {"num_features": 8},
            "tensors": {"weight": [8], "bias": [8], "running_mean": [8], "running_var": [8]},
        },
    }
    apply_shapes(model, old)
    assert model.get_submodule(f"{name}.convolution").weight.shape == (8, 16, 3, 3)
    assert model.get_submodule(f"{name}.normalization").num_features == 8


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": {"forward": 3}, "tensors": {}},
        {"attributes": {"out_features": "many"}, "tensors": {}},
        {"attributes": {}, "tensors": {"mask": [3]}},
    ],
)
def test_records_that_do_not_fit_the_module_are_refused(change):
    model = build_registered("resnet18", list("abcd"), width=0.25).model
    with pytest.raises(RunError, match=r"'classifier\.1'"):
        apply_shapes(model, {"classifier.1": change})

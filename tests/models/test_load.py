"""Loading models: what works, and the one sentence when it does not."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, TimmWrapperConfig, TimmWrapperForImageClassification, ViTConfig, ViTModel

from hf_compress import load, save
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.embeddings import load_backbone
from hf_compress.models.students import build_registered, students_for
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"


@pytest.fixture
def folder(tmp_path):
    built = build_registered("resnet18", ["cat", "dog"], width=0.125, image_size=32)
    save(built.model, tmp_path, built.processor)
    return tmp_path


@pytest.mark.parametrize("name", students_for())
def test_registered_students_have_the_labels_and_scale_with_width(name, tmp_path):
    full, half = (build_registered(name, list("abc"), width=width, image_size=32) for width in (0.5, 0.25))
    assert full.label_names == list("abc")
    assert half.model.num_parameters() < 0.4 * full.model.num_parameters()
    assert half.model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)


def test_a_folder_loads_with_its_processor(folder):
    loaded = load(str(folder))
    assert loaded.label_names == ["cat", "dog"]
    assert loaded.processor.size == {"height": 32, "width": 32}
    assert not loaded.new_head
    assert not loaded.model.training


def test_other_labels_give_a_new_head(folder):
    loaded = load(str(folder), labels=["ant", "bee", "cow"])
    assert loaded.label_names == ["ant", "bee", "cow"]
    assert loaded.new_head
    assert loaded.model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)


def test_from_scratch_ignores_the_weights(folder):
    first, second = load(str(folder)), load(str(folder), pretrained=False)
    assert second.new_head
    weights = (m.model.resnet.embedder.embedder.convolution.weight for m in (first, second))
    assert not torch.equal(*weights)


@pytest.mark.parametrize("labels", [None, ["ant", "bee", "cow"]], ids=["its labels", "others"])
def test_from_scratch_a_pruned_model_keeps_its_widths(folder, tmp_path, labels):
    pruned = load(str(folder))
    config = PruneSection(round_to=1)
    ChannelPruner(pruned.model, torch.zeros(1, 3, 32, 32), config, set()).prune(pruned.model, 0.5)
    save(pruned.model, tmp_path / "pruned", pruned.processor)
    scratch = load(str(tmp_path / "pruned"), pretrained=False, labels=labels)
    body, own = (
        {name: weight for name, weight in model.state_dict().items() if "classifier" not in name}
        for model in (pruned.model, scratch.model)
    )
    assert {name: weight.shape for name, weight in own.items()} == {
        name: weight.shape for name, weight in body.items()
    }
    assert scratch.model.config.num_labels == len(labels or pruned.label_names)
    for name, module in scratch.model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 500:
            assert not torch.equal(module.weight, body[f"{name}.weight"])
            deviation = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5  # He et al., by outputs
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.15), name
    save(scratch.model, tmp_path / "scratch", scratch.processor)
    again = load(str(tmp_path / "scratch"))
    assert all(
        torch.equal(weight, scratch.model.state_dict()[name]) for name, weight in again.model.state_dict().items()
    )


def test_a_timm_model_loads_through_its_wrapper(tmp_path):
    normalisation = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = TimmWrapperConfig(architecture="resnet18", num_labels=3, pretrained_cfg=normalisation)
    TimmWrapperForImageClassification(config).save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)


def test_missing_folders_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"no model folder '\./nowhere'"):
        load("./nowhere")
    with pytest.raises(UsageError, match=r"no config\.json"):
        load(str(tmp_path))


def test_what_is_not_an_image_classifier_says_so(folder, tmp_path):
    BertConfig().save_pretrained(tmp_path / "text")
    with pytest.raises(RunError, match=r"not an image classifier.*'bert'"):
        load(str(tmp_path / "text"))
    headless = ViTModel(ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1))
    save(headless, tmp_path / "backbone", load(str(folder)).processor)
    with pytest.raises(RunError, match="lacks the weights of the classification head"):
        load(str(tmp_path / "backbone"))


def test_a_missing_processor_says_so(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(RunError, match=r"preprocessor_config\.json"):
        load(str(folder))


def test_an_id_that_is_not_cached_says_so_offline():
    with pytest.raises(RunError, match="not cached and the Hub is out of reach"):
        load("nobody/nothing")
    with pytest.raises(UsageError, match="check the id"):
        load("no such/id at all")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models are not beside this checkout")
def test_custom_code_needs_the_flag():
    name = str(SHARED / "resnet56-cifar10")
    with pytest.raises(UsageError, match="--trust-remote-code"):
        load(name)
    assert load(name, trust_remote_code=True).label_names[0] == "airplane"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models are not beside this checkout")
def test_pruned_custom_code_loads_more_than_once(tmp_path):
    model = load(str(SHARED / "resnet56-cifar10"), trust_remote_code=True)
    ChannelPruner(model.model, torch.zeros(1, 3, 32, 32), PruneSection(), set()).prune(model.model, 0.5)
    save(model.model, tmp_path, model.processor)
    first, second = (load(str(tmp_path), trust_remote_code=True).model for _ in range(2))
    assert first.num_parameters() == second.num_parameters() == model.model.num_parameters()
    with pytest.raises(UsageError, match="--trust-remote-code"):
        load(str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models are not beside this checkout")
def test_half_precision_checkpoints_load_as_float32_with_torch_momentum():
    model = load(str(SHARED / "mobilenet-v2-imagenet")).model
    assert model.dtype == torch.float32
    momenta = {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.1}


SQUARE = {"height": 24, "width": 24}
ODD_SIZES = {
    "no resizing": {"do_resize": False},
    "shortest edge": {"size": {"shortest_edge": 24}},
    "shortest edge without crop": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 24},
        "do_center_crop": False,
    },
}
ONE_SIZE = {
    "a size": {},
    "crop": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 28},
        "do_center_crop": True,
        "crop_size": SQUARE,
    },
}


def change_processor(folder, **options):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


@pytest.mark.parametrize("loads", [load, load_backbone])
@pytest.mark.parametrize("case", [*ODD_SIZES, *ONE_SIZE])
def test_a_processor_makes_one_size_of_all_pictures_or_is_refused(folder, loads, case):
    change_processor(folder, **(ODD_SIZES | ONE_SIZE)[case])
    if case in ONE_SIZE:
        assert loads(str(folder)).model is not None
        return
    with pytest.raises(RunError, match=r"makes pictures of different sizes \(\d+ x \d+, \d+ x \d+\).*'do_resize'"):
        loads(str(folder))
    change_processor(folder, do_resize=True, size=SQUARE)
    assert loads(str(folder)).model is not None, "as the refusal says"

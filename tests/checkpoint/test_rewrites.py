"""Rewritten models reload with plain `from_pretrained`, alone and with everything else that changes a model."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageClassification, ViTImageProcessor
from typer.testing import CliRunner

import hf_compress
from hf_compress import save
from hf_compress.checkpoint.quantizer import CheckpointConfig
from hf_compress.checkpoint.rewrites import Rewritten, apply_rewrites, record_rewrites
from hf_compress.checkpoint.shapes import record_shapes
from hf_compress.cli import app
from hf_compress.ground.errors import RunError
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.weights import WeightPruner
from hf_compress.steps.rewriting.activations import piecewise_linear
from hf_compress.steps.rewriting.convolutions import factorized, separable
from hf_compress.steps.rewriting.strided_pool import strided_pool
from tests.families import FAMILIES

IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
STEM, POOL = "resnet.embedder.embedder.convolution", "resnet.embedder.pooler"
CONVOLUTION = "resnet.encoder.stages.{}.layers.0.layer.{}.convolution"
LOAD = """
import sys
import torch, hf_compress
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

root, *names = sys.argv[1:]
image = load_file(f"{root}/image.safetensors")["image"]
with torch.no_grad():
    logits = {n: AutoModelForImageClassification.from_pretrained(f"{root}/{n}")(image).logits for n in names}
save_file(logits, f"{root}/logits.safetensors")
"""


def put(model, name, kind, layers):
    model.set_submodule(name, Rewritten(kind, layers))


def separated(model, rank=1):
    name = CONVOLUTION.format(1, 1)
    put(model, name, "separable", separable(model.get_submodule(name), rank))
    return model


def factors(model):
    name = CONVOLUTION.format(2, 1)
    put(model, name, "factorize", factorized(model.get_submodule(name), 0.6))
    return model


def pooled(model):
    pool = model.get_submodule(POOL)
    read = torch.rand(4, model.get_submodule(STEM).out_channels, 16, 16)
    put(model, POOL, "strided_pool", strided_pool(pool, lambda: [(read, pool(read))]))
    return model


def linear(model):
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.SiLU | nn.Sigmoid) or type(module).__name__ == "SiLUActivation":
            put(model, name, "activations", [piecewise_linear(module, "relu6")])
    return model.eval()


def pruned(model):
    ChannelPruner(model, IMAGE[:1], PruneSection(round_to=4), set()).prune(model, 0.4)
    return model.to(memory_format=torch.contiguous_format)


def zeroed(model):
    WeightPruner(model, PruneSection(granularity="weight", floor=0), set()).prune(model, 0.9)
    return model


def resnet():
    torch.manual_seed(0)
    return build_registered("resnet18", list("abcd"), width=0.25, image_size=32).model.eval()


def efficientnet():
    return next(each for each in FAMILIES if each.name == "efficientnet").build()


FOLDERS = {
    "separable": lambda: separated(resnet()),
    "separable-rank-2": lambda: separated(resnet(), rank=2),
    "factorize": lambda: factors(resnet()),
    "strided_pool": lambda: pooled(resnet()),
    "activations": lambda: linear(efficientnet()),
    "several": lambda: pooled(factors(separated(resnet()))),
    "twice": lambda: put_inside(separated(resnet())),
    "then-pruned": lambda: pruned(pooled(factors(separated(resnet(), rank=2)))),
    "pruned-before": lambda: pooled(factors(separated(pruned(resnet())))),
    "pruned-before-and-after": lambda: pruned(separated(pruned(resnet()))),
    "then-sparse": lambda: zeroed(factors(separated(resnet()))),
}


def put_inside(model):
    """A rewrite within a rewrite."""
    name = CONVOLUTION.format(1, 1) + ".1"
    pointwise = model.get_submodule(name)
    identity = nn.Conv2d(pointwise.out_channels, pointwise.out_channels, 1)
    put(model, name, "mine", [copy.deepcopy(pointwise), identity])
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    made = {name: make().eval() for name, make in FOLDERS.items()}
    for name, model in made.items():
        save(model, root / name, ViTImageProcessor(size={"height": 32, "width": 32}))
    return root, made


def recorded(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.mark.long
def test_another_process_computes_the_same_logits_to_the_last_bit(models):
    root, made = models
    save_file({"image": IMAGE}, root / "image.safetensors")
    subprocess.run([sys.executable, "-c", LOAD, str(root), *made], check=True, capture_output=True)
    logits = load_file(root / "logits.safetensors")
    for name, model in made.items():
        with torch.no_grad():
            assert torch.equal(logits[name], model(IMAGE).logits), name


@pytest.mark.parametrize("name", FOLDERS)
def test_save_load_save_is_byte_identical(name, models, tmp_path):
    root, _ = models
    AutoModelForImageClassification.from_pretrained(root / name).save_pretrained(tmp_path)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / file).read_bytes() == (root / name / file).read_bytes()


def test_config_json_holds_data_and_pruned_widths_are_shapes(models):
    root, made = models
    name = CONVOLUTION.format(1, 1)
    entry = recorded(root / "then-pruned")
    depthwise, pointwise = entry["rewrites"][name]["layers"]
    assert entry["rewrites"][name]["kind"] == "separable"
    assert depthwise == {
        "type": "Conv2d",
        "in_channels": 32,
        "out_channels": 64,
        "kernel_size": [3, 3],
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 32,
        "bias": False,
        "padding_mode": "zeros",
    }
    assert pointwise["kernel_size"] == [1, 1] and pointwise["out_channels"] == 32
    module = made["then-pruned"].get_submodule(name)
    assert module[0].groups < 32 and module[0].out_channels == 2 * module[0].groups
    assert entry["shapes"][f"{name}.0"]["tensors"]["weight"] == [module[0].out_channels, None, None, None]
    assert entry["shapes"][f"{name}.0"]["attributes"]["groups"] == module[0].groups
    assert entry["shapes"][f"{name}.1"]["tensors"]["weight"][1] == module[1].in_channels
    assert not recorded(root / "several")["shapes"]
    assert recorded(root / "then-sparse")["sparse_records"] > 0
    before = recorded(root / "pruned-before")
    assert before["rewrites"][name]["layers"][0]["in_channels"] < 32
    assert not any(layer.startswith(name) for layer in before["shapes"])


def test_channel_pruning_follows_channels_through_rewrites(models):
    """The ranks of a factorization are channels like others; a depthwise kernel goes with its input channel."""
    model = pooled(factors(separated(resnet())))
    pruner = ChannelPruner(model, IMAGE[:1], PruneSection(round_to=4), set())
    vertical = CONVOLUTION.format(2, 1) + ".0"
    assert vertical in pruner.widths
    leads = {group.name: group for group in pruner.groups(model)}
    reads = leads[CONVOLUTION.format(1, 0)]
    touched = {member.axis.module for member in reads.members}
    assert {CONVOLUTION.format(1, 1) + ".0", CONVOLUTION.format(1, 1) + ".1"} <= touched
    assert any(POOL in {member.axis.module.rpartition(".")[0] for member in group.members} for group in leads.values())


def test_a_reloaded_model_trains_casts_and_is_pruned_again(models, tmp_path):
    root, _ = models
    again = AutoModelForImageClassification.from_pretrained(root / "several")
    assert again.half().dtype == torch.float16
    again = pruned(AutoModelForImageClassification.from_pretrained(root / "several").eval())
    again(IMAGE, labels=torch.tensor([0, 1])).loss.backward()
    assert again.get_submodule(CONVOLUTION.format(1, 1))[0].weight.grad.abs().sum() > 0
    save(again, tmp_path)
    with torch.no_grad():
        reloaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert torch.equal(reloaded(IMAGE).logits, again.eval()(IMAGE).logits)


def test_an_unchanged_model_has_no_record():
    model = resnet()
    assert record_rewrites(model) == {} and record_shapes(model) == {}


def test_inspect_shows_what_a_rewrite_made(models):
    root, _ = models
    result = CliRunner().invoke(app, ["inspect", str(root / "then-pruned"), "--json"])
    assert result.exit_code == 0, result.output
    rows = {row["layer"]: row for row in json.loads(result.stdout)}
    row = rows[CONVOLUTION.format(1, 1) + ".0"]
    assert row["rewrite"] == "separable" and row["unpruned_shape"] == [64, 1, 3, 3] != row["shape"]
    assert rows["classifier.1"]["rewrite"] is None


@pytest.mark.long
def test_a_rewritten_and_pruned_model_is_exported(models, tmp_path):
    pytest.importorskip("onnxruntime")
    root, _ = models
    rows = hf_compress.export(root / "then-pruned", "onnx", int8=True, data="digits", output=tmp_path)
    assert rows[0]["max_difference"]["logits"] < 1e-4
    assert rows[1]["precision"] == "int8"


GOOD = {"kind": "mine", "layers": [{"type": "ReLU"}]}
CONV = {"type": "Conv2d", "in_channels": 4, "out_channels": 4, "kernel_size": [3, 3], "stride": [1, 1], "groups": 1}
CONV |= {"padding": [1, 1], "dilation": [1, 1], "bias": False, "padding_mode": "zeros"}


@pytest.mark.parametrize(
    "rewrites",
    [
        [],
        {"a": "code"},
        {"a": {"kind": "mine", "layers": []}},
        {"a": {"layers": [{"type": "ReLU"}]}},
        {"a": GOOD | {"code": "import os"}},
        {"a": GOOD | {"layers": [{"type": "Sequential"}]}},
        {"a": GOOD | {"layers": [{"type": "ReLU", "inplace": "import os"}]}},
        {"a": GOOD | {"layers": [CONV | {"in_channels": -4}]}},
        {"a": GOOD | {"layers": [CONV | {"kernel_size": [3.5, 3]}]}},
        {"a": GOOD | {"layers": [CONV | {"kernel_size": [3, 3, 3]}]}},
        {"a": GOOD | {"layers": [CONV | {"padding": "other"}]}},
        {"a": GOOD | {"layers": [CONV | {"bias": "yes"}]}},
        {"a": GOOD | {"layers": [{k: v for k, v in CONV.items() if k != "groups"}]}},
    ],
)
def test_malformed_records_are_refused(rewrites):
    if rewrites:
        with pytest.raises(RunError, match=r"config\.json records are damaged or were changed .*get the file again"):
            CheckpointConfig(rewrites=rewrites)
    else:
        assert CheckpointConfig(rewrites=rewrites).rewrites == {}


@pytest.mark.parametrize(
    ("name", "record"), [("resnet.no.such", GOOD), ("", GOOD), (STEM, GOOD | {"layers": [CONV | {"groups": 3}]})]
)
def test_records_that_do_not_fit_the_architecture_are_refused(name, record):
    with pytest.raises(RunError, match=f"a rewrite of '{name}'"):
        apply_rewrites(resnet(), {name: record})


def test_a_changed_record_is_one_sentence_on_loading(models, tmp_path):
    root, _ = models
    save(AutoModelForImageClassification.from_pretrained(root / "separable"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["rewrites"][CONVOLUTION.format(1, 1)]["layers"][0]["type"] = "Linear"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="damaged or were changed"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


def test_layers_that_cannot_be_recorded_are_refused():
    with pytest.raises(TypeError, match="rewrite 'mine' cannot be recorded"):
        Rewritten("mine", [nn.Linear(3, 4)])

"""Save, load, save: every kind of folder comes out byte for byte, and loads where the package cannot be imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import CUSTOM
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
    pipeline,
)

from hf_compress import load, save
from hf_compress.checkpoint import loads_with
from hf_compress.checkpoint.code import CODE
from hf_compress.checkpoint.rewrites import Dropped, Rewritten
from hf_compress.checkpoint.shapes import apply_shapes
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.uniform import UniformPruner
from hf_compress.steps.pruning.remove.weights import WeightPruner

IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
VIT = ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    image_size=32,
    patch_size=8,
    num_labels=4,
)
CONVNEXT = ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], num_labels=4)
WITHOUT_PACKAGE = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_compress":
            raise ModuleNotFoundError(f"{name} is blocked")

block = Block()
sys.meta_path.insert(0, block)
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline

folder, trusted, plain, backbones = sys.argv[1], *map(str.split, sys.argv[2:])
image = load_file(f"{folder}/image.safetensors")["image"]
trust = {"trust_remote_code": True}

def logits(name, auto="AutoModelForImageClassification", **options):
    model = getattr(transformers, auto).from_pretrained(f"{folder}/{name}", **options)
    with torch.no_grad():
        return model, (model(image).logits if "logits" in model(image) else model(image).last_hidden_state)

for name in trusted[:2]:
    try:
        logits(name)
        print("LOADED")
    except RuntimeError as error:
        print("REFUSED", error)
found = {}
for name in plain:
    found[name] = logits(name)[1]
for name in trusted + backbones:
    auto = "AutoModel" if name in backbones else "AutoModelForImageClassification"
    model, found[name] = logits(name, auto, **trust)
    model.half().float().save_pretrained(f"{folder}/again/{name}")
    again = logits(f"again/{name}", auto, **trust)[1]
    assert torch.allclose(again, found[name], rtol=0.05, atol=0.05), name
save_file(found, f"{folder}/logits.safetensors")
other = logits(trusted[0], num_labels=7, ignore_mismatched_sizes=True, **trust)[1]
assert other.shape == (1, 7)
for name in trusted[:2]:
    pipe = pipeline("image-classification", model=f"{folder}/{name}", device="cpu", **trust)
    print(json.dumps(pipe(Image.new("RGB", (32, 32), "red"))))
assert "hf_compress" not in sys.modules
sys.meta_path.remove(block)
import hf_compress.checkpoint.quantizer
for name in trusted:
    for options in (trust, trust if name == "custom" else {}):
        assert torch.equal(logits(name, **options)[1], found[name])
"""


def built(config):
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(config).eval()


def resnet(width=0.25):
    torch.manual_seed(0)
    return build_registered("resnet18", list("abcd"), width=width).model.eval()


def with_zeros(model):
    WeightPruner(model, PruneSection(granularity="weight", floor=0), set()).prune(model, 0.9)
    return model


def narrowed(model):
    ChannelPruner(model, IMAGE, PruneSection(round_to=4), set()).prune(model, 0.4)
    return model.to(memory_format=torch.contiguous_format)


def uniform(model):
    UniformPruner(model, IMAGE, PruneSection(round_to=4, layout="config"), set()).prune(model, 0.4)
    return model.to(memory_format=torch.contiguous_format)


def rewritten(model):
    """A model with a separated convolution and without one of its blocks."""
    layer = "resnet.encoder.stages.0.layers.0.layer.0.convolution"
    width = model.get_submodule(layer).out_channels
    parts = [nn.Conv2d(width, width, (3, 1), padding=(1, 0)), nn.Conv2d(width, width, (1, 3), padding=(0, 1))]
    model.set_submodule(layer, Rewritten("separable", parts))
    model.set_submodule("resnet.encoder.stages.1.layers.1", Dropped())
    return model.eval()


def timm(architecture="resnet18", **options):
    torch.manual_seed(0)
    seen = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = TimmWrapperConfig(architecture=architecture, pretrained_cfg=seen, model_args=options, num_labels=4)
    return TimmWrapperForImageClassification(config).eval()


def coat():
    """An architecture of timm that puts one module into several places."""
    return timm("coat_lite_tiny", img_size=32, embed_dims=[16] * 4, num_heads=8, serial_depths=[1] * 4)


FOLDERS = {
    "dense": resnet,
    "dense-vit": lambda: built(VIT),
    "shapes": lambda: narrowed(resnet()),
    "sparse": lambda: with_zeros(resnet()),
    "sparse-vit": lambda: with_zeros(built(VIT)),
    "sparse-shapes": lambda: with_zeros(narrowed(resnet())),
    "rewritten": lambda: rewritten(resnet()),
    "rewritten-shapes": lambda: narrowed(rewritten(resnet())),
    "timm": lambda: narrowed(timm(channels=[8, 8, 16, 16])),
    "coat-shapes": lambda: narrowed(coat()),
    "config-resnet": lambda: uniform(resnet()),
    "config-vit": lambda: uniform(built(VIT)),
    "config-convnext": lambda: uniform(built(CONVNEXT)),
}


COMPRESSED = {name for name in FOLDERS if {"shapes", "sparse", "rewritten", "timm"} & set(name.split("-"))}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Every kind of folder, with the model that was saved there."""
    root = tmp_path_factory.mktemp("folders")
    made = {}
    for name, make in FOLDERS.items():
        made[name] = make()
        save(made[name], root / name, ViTImageProcessor(size={"height": 32, "width": 32}))
        save_file({"image": IMAGE}, root / name / "image.safetensors")
    return root, made


def weights_and_config(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("model*.safetensors*"), folder / "config.json"]
    return {file.name: file.read_bytes() for file in files}


def quantization(folder: Path) -> dict | None:
    return json.loads((folder / "config.json").read_text()).get("quantization_config")


@pytest.mark.parametrize("name", FOLDERS)
def test_save_load_save_is_byte_identical(name, models, tmp_path):
    root, made = models
    again = AutoModelForImageClassification.from_pretrained(root / name)
    with torch.no_grad():
        assert torch.allclose(again(IMAGE).logits, made[name](IMAGE).logits, rtol=1e-4, atol=1e-6)
    save(again, tmp_path / "save")
    again.save_pretrained(tmp_path / "save_pretrained")
    AutoModelForImageClassification.from_pretrained(tmp_path / "save").save_pretrained(tmp_path / "third")
    for folder in ("save", "save_pretrained", "third"):
        assert weights_and_config(tmp_path / folder) == weights_and_config(root / name)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_pipeline_runs_on_every_folder(name, models):
    root, _ = models
    labels = pipeline("image-classification", model=str(root / name), device="cpu")(Image.new("RGB", (32, 32)))
    assert len(labels) == 4 and sum(label["score"] for label in labels) == pytest.approx(1, abs=1e-4)


def test_only_what_a_config_cannot_express_is_recorded(models):
    root, _ = models
    recorded = {name: quantization(root / name) for name in FOLDERS}
    assert {name for name, entry in recorded.items() if entry} == COMPRESSED
    assert recorded["shapes"]["shapes"] and not recorded["shapes"]["sparse_records"]
    assert recorded["sparse"]["sparse_records"] and not recorded["sparse"]["shapes"]


def test_a_model_with_one_module_in_several_places_is_saved(tmp_path):
    model = coat()
    save(model, tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IMAGE).logits, model(IMAGE).logits)


def test_code_lies_in_folders_that_need_it_alone(models):
    root, _ = models
    assert {name for name in FOLDERS if (root / name / CODE).exists()} == COMPRESSED
    for name in FOLDERS:
        config = json.loads((root / name / "config.json").read_text())
        assert loads_with(config) == ("generated_code" if name in COMPRESSED else "transformers")


def test_plain_transformers_keeps_what_is_computed_and_in_no_file():
    import hf_compress.checkpoint.quantizer  # noqa: F401  or the other module would take its place
    from hf_compress.checkpoint import modeling_hf_compress

    shapes = {"": {"attributes": {"heads": 2}, "tensors": {"table": [None, 2], "weight": [3, None]}}}
    for resize in (apply_shapes, modeling_hf_compress._resize):
        module = nn.Module()
        module.heads, module.weight = 4, nn.Parameter(torch.ones(4, 2))
        module.register_buffer("table", torch.arange(12.0).reshape(3, 4), persistent=False)
        resize(module, shapes)
        assert module.table.tolist() == [[0, 1], [4, 5], [8, 9]] and "table" not in module.state_dict()
        assert (module.heads, module.weight.shape) == (2, (3, 2)) and module.weight.requires_grad


def test_a_backbone_and_an_architecture_of_a_repository_get_code_too(tmp_path, models):
    """And one of nobody's repository gets none, because nothing could be imported."""
    save(with_zeros(ViTModel(VIT)), tmp_path / "backbone")
    config = json.loads((tmp_path / "backbone" / "config.json").read_text())
    assert config["auto_map"] == {"AutoModel": "modeling_hf_compress.ViTModel"}
    own = type("Own", (ViTForImageClassification,), {"__module__": "elsewhere"})
    save(with_zeros(own(VIT)), tmp_path / "own")
    assert not (tmp_path / "own" / CODE).exists()
    assert loads_with(json.loads((tmp_path / "own" / "config.json").read_text())) == "hf_compress"


def test_with_this_package_no_code_of_a_folder_runs(models, tmp_path):
    root, made = models
    shutil.copytree(root / "shapes", tmp_path / "changed")
    (tmp_path / "changed" / CODE).write_text("raise SystemError('this ran')")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "changed")
    allowed = load(str(tmp_path / "changed"), trust_remote_code=True).model
    weights = made["shapes"].state_dict()
    for model in (plain, allowed):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
        with torch.no_grad():  # where weights lie in memory is no part of a file, and some kernels add otherwise there
            torch.testing.assert_close(model(IMAGE).logits, made["shapes"](IMAGE).logits, rtol=0, atol=1e-6)


@pytest.mark.long
def test_in_a_process_that_cannot_import_the_package(models):
    """Plain transformers loads every folder as it was; without leave to run code it says what to do."""
    root, made = models
    made = {name: made[name] for name in FOLDERS} | {"backbone": with_zeros(built(VIT).vit)}
    save(made["backbone"], root / "backbone")
    trusted = [name for name in FOLDERS if name in COMPRESSED]
    if CUSTOM.is_dir():
        trusted.append("custom")
        made["custom"] = narrowed(load(str(CUSTOM), trust_remote_code=True).model)
        save(made["custom"], root / "custom")
        config = json.loads((root / "custom" / "config.json").read_text())
        assert loads_with(config) == "custom_code" and "AutoConfig" in config["auto_map"]
    save_file({"image": IMAGE}, root / "image.safetensors")
    plain = [name for name in FOLDERS if name not in COMPRESSED]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(root), *map(" ".join, (trusted, plain, ["backbone"]))],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(root / "logits.safetensors")
    for name, model in made.items():
        with torch.no_grad():
            said = model(IMAGE).last_hidden_state if name == "backbone" else model(IMAGE).logits
        torch.testing.assert_close(found[name], said, rtol=0, atol=1e-6, msg=name)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(("[", "\t"))][:2] == ["REFUSED", "REFUSED"]
    assert [len(json.loads(line)) for line in lines[-2:]] == [4, 4]
    sentence = "got hf_compress: pip install hf-compress, then `import hf_compress` before from_pretrained"
    assert done.stderr.count(sentence) == 2

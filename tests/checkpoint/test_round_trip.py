"""Save, load, save: every kind of folder comes out byte for byte, and loads where the package cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, ConvNextConfig, ViTConfig, ViTImageProcessor, pipeline

from hf_compress import save
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

sys.meta_path.insert(0, Block())
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline

folder, *others = sys.argv[1:]
logits = {}
for each in others:
    image = load_file(f"{each}/image.safetensors")["image"]
    with torch.no_grad():
        logits[each.rpartition("/")[2]] = AutoModelForImageClassification.from_pretrained(each)(image).logits
    pipe = pipeline("image-classification", model=each, device="cpu")
    print(json.dumps(pipe(Image.new("RGB", (32, 32), "red"))))
save_file(logits, f"{folder}/logits.safetensors")
for kind in ("shapes", "sparse"):
    try:
        AutoModelForImageClassification.from_pretrained(f"{folder}/{kind}")
        print("LOADED")
    except RuntimeError as error:
        print("REFUSED", error)
assert "hf_compress" not in sys.modules
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


FOLDERS = {
    "dense": resnet,
    "dense-vit": lambda: built(VIT),
    "shapes": lambda: narrowed(resnet()),
    "sparse": lambda: with_zeros(resnet()),
    "sparse-vit": lambda: with_zeros(built(VIT)),
    "sparse-shapes": lambda: with_zeros(narrowed(resnet())),
    "config-resnet": lambda: uniform(resnet()),
    "config-vit": lambda: uniform(built(VIT)),
    "config-convnext": lambda: uniform(built(CONVNEXT)),
}


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
    assert {name for name, entry in recorded.items() if entry} == {"shapes", "sparse", "sparse-vit", "sparse-shapes"}
    assert recorded["shapes"]["shapes"] and not recorded["shapes"]["sparse_records"]
    assert recorded["sparse"]["sparse_records"] and not recorded["sparse"]["shapes"]


@pytest.mark.long
def test_in_a_process_that_cannot_import_the_package(models):
    """`layout: config` needs no package; for the others transformers prints the sentence that says what to do."""
    root, made = models
    names = ["dense", "config-resnet", "config-vit", "config-convnext"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(root), *(str(root / name) for name in names)],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    logits = load_file(root / "logits.safetensors")
    for name in names:
        with torch.no_grad():
            assert torch.allclose(logits[name], made[name](IMAGE).logits, rtol=1e-4, atol=1e-6), name
    lines = done.stdout.splitlines()
    assert [len(json.loads(line)) for line in lines[: len(names)]] == [4] * len(names)
    assert [line.split()[0] for line in lines[len(names) :]] == ["REFUSED", "REFUSED"]
    sentence = "got hf_compress: pip install hf-compress, then `import hf_compress` before from_pretrained"
    assert done.stderr.count(sentence) == 2

"""Modules that are none of transformers': smaller, repaired, stored, and restored."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import hf_compress
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.load import load
from tests.nets import Net

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PHOTOS = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Own(nn.Module):
    """One's own module: its input has another name, and it gives a plain tensor."""

    def __init__(self, seed=0):
        super().__init__()
        self.net = Net(width=8, hidden=16, seed=seed)

    def forward(self, x):
        return self.net(x)["logits"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    pruned = hf_compress.prune(Own(), IMAGE, amount=0.5, round_to=4, calibration=PHOTOS)
    folder = tmp_path_factory.mktemp("plain") / "pruned"
    missing = pruned.save(folder)
    pruned.module.eval()
    return pruned, folder, missing


def test_a_plain_module_becomes_smaller_and_is_repaired_and_the_given_one_stays(saved):
    module = Own()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    again = hf_compress.prune(module, IMAGE, amount=0.5, round_to=4, calibration=PHOTOS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert again.module.training and not again.module.net.training
    pruned = saved[0]
    assert pruned.module.net.stem.weight.shape == (4, 3, 3, 3)
    assert pruned.module.net.wide.weight.shape == (8, 4, 3, 3)
    assert pruned.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (Own(), pruned.module))
    assert pruned.macs[0] == 64 * (27 * 8 + 72 * 16 + 16 * 8) + 8 * 5
    assert pruned.macs[1] == 64 * (27 * 4 + 36 * 8 + 8 * 4) + 4 * 5
    assert pruned.protected == {"net.classify": "gives the output"}
    assert "least_squares" in pruned.repair["repaired"]
    assert pruned.repair["output_error_after"] < pruned.repair["output_error_before"]
    assert pruned.module(PHOTOS).shape == (40, 5)


def test_what_was_saved_is_restored_to_the_bit_and_its_files_say_the_same(saved):
    pruned, folder, missing = saved
    assert missing == {}
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "model.onnx", "model.pt2", "model.safetensors", "shapes.json"]
    )
    restored = hf_compress.restore(Own(seed=7), folder).eval()
    with torch.no_grad():
        expected = pruned.module(PHOTOS)
        assert torch.equal(restored(PHOTOS), expected)
        exported = torch.export.load(folder / "model.pt2").module()(PHOTOS)
    assert torch.allclose(exported, expected, atol=1e-4)
    onnxruntime = pytest.importorskip("onnxruntime")
    (made,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"pixel_values": PHOTOS.numpy()})
    assert np.allclose(made, expected.numpy(), atol=1e-4)


def test_it_says_that_transformers_cannot_load_it_and_what_can(saved):
    with pytest.raises(UsageError, match=r"no checkpoint of transformers.*hf_compress\.restore"):
        load(str(saved[1]))
    with pytest.raises(UsageError, match="is a file: name the folder"):
        load(str(saved[1] / "model.safetensors"))
    assert "`from_pretrained` cannot load it" in (saved[1] / "README.md").read_text()


def test_a_folder_of_another_module_or_one_that_was_changed_is_refused(saved, tmp_path):
    with pytest.raises(RunError, match=r"shapes\.json records shapes for 'net', which|shapes\.json records"):
        hf_compress.restore(nn.Sequential(nn.Conv2d(3, 4, 1)), saved[1])
    with pytest.raises(UsageError, match=r"holds no shapes\.json"):
        hf_compress.restore(Own(), tmp_path)
    (tmp_path / "shapes.json").write_text(json.dumps({"net": []}))
    with pytest.raises(UsageError, match="damaged or was changed"):
        hf_compress.restore(Own(), tmp_path)
    with pytest.raises(UsageError, match="is there already"):
        saved[0].save(saved[1])


def test_a_computed_buffer_is_restored_with_its_values(tmp_path):
    class Offset(Own):
        def __init__(self):
            super().__init__()
            self.register_buffer("offset", torch.full((8,), 0.5), persistent=False)
            self.net.before_addition = nn.Identity()

        def forward(self, x):
            x = self.net.stem(x).relu() + self.offset.view(1, -1, 1, 1)
            return self.net.classify(x.mean((2, 3)))

    pruned = hf_compress.prune(Offset(), IMAGE, amount=0.5, round_to=4)
    pruned.save(tmp_path / "pruned")
    restored = hf_compress.restore(Offset(), tmp_path / "pruned")
    assert torch.equal(restored.offset, torch.full((4,), 0.5))
    with torch.no_grad():
        assert torch.equal(restored(PHOTOS), pruned.module(PHOTOS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example_inputs": torch.rand(3, 8, 8)}, r"shape \(batch, channels, height, width\)"),
        ({"example_inputs": torch.rand(1, 4, 8, 8)}, "Own does not run on example_inputs"),
        ({"exclude": ["nett"]}, "exclude names 'nett', which the module lacks"),
        ({"importance": "taylor", "calibration": PHOTOS}, "needs the loss of a task"),
        ({"importance": "obs"}, "needs calibration images"),
        ({"calibration": []}, "calibration holds no images"),
        ({"calibration": [PHOTOS, PHOTOS[..., :4]]}, "calibration holds images of several sizes"),
        ({"amount": 2}, "amount"),
    ],
)
def test_wrong_values_are_errors_that_say_what_to_do(options, message):
    with pytest.raises(UsageError, match=message):
        hf_compress.prune(Own(), **{"example_inputs": IMAGE, **options})


def test_excluded_layers_stay_whole_and_obs_asks_the_images():
    batches = [(part, torch.zeros(len(part))) for part in PHOTOS.split(16)]
    pruned = hf_compress.prune(
        Own(), IMAGE, amount=0.5, round_to=4, importance="obs", exclude=["net.stem"], calibration=batches
    )
    assert pruned.protected["net.stem"] == "excluded by the recipe"
    assert pruned.module.net.stem.out_channels == 8
    assert pruned.module.net.wide.out_channels == 8


@pytest.mark.long
def test_a_network_of_torchvision_comes_back(tmp_path):
    image = torch.rand(1, 3, 64, 64)
    pruned = hf_compress.prune(resnet18(), image, amount=0.4, calibration=torch.rand(32, 3, 64, 64))
    assert pruned.parameters[1] < 0.5 * pruned.parameters[0]
    assert pruned.save(tmp_path / "resnet18") == {}
    restored = hf_compress.restore(resnet18(), tmp_path / "resnet18").eval()
    with torch.no_grad():
        assert torch.equal(restored(image), pruned.module.eval()(image))


def test_a_scope_that_needs_a_task_is_refused():
    with pytest.raises(UsageError, match="scope 'damage' asks the loss of a task"):
        hf_compress.prune(Own(), IMAGE, scope="damage", calibration=PHOTOS)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_module_in_half_precision_is_solved_in_float32_and_stays_one(kind):
    module = Own().to(kind)
    pruned = hf_compress.prune(module, IMAGE.to(kind), amount=0.5, round_to=4, calibration=PHOTOS.to(kind))
    whole = hf_compress.prune(Own(), IMAGE, amount=0.5, round_to=4, calibration=PHOTOS)
    assert "least_squares" in pruned.repair["repaired"]
    assert pruned.repair["output_error_after"] == pytest.approx(whole.repair["output_error_after"], rel=0.1)
    assert {tensor.dtype for tensor in pruned.module.parameters()} == {kind} == {p.dtype for p in module.parameters()}
    assert pruned.module(PHOTOS.to(kind)).dtype == kind

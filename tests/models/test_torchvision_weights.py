"""Weights of torchvision: by name, and in files, of which nothing but tensors is read."""

import pickle

import pytest
import torch
from torchvision import models

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.load import load
from hf_compress.models.origin import origin
from hf_compress.models.students import build_model
from hf_compress.models.torchvision_weights import torchvision_folder
from hf_compress.sections.models import TeacherSection
from hf_compress.tasks.classification import CLASSIFICATION


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.resnet18(num_classes=7).eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "resnet18-mine.pth"
    torch.save(network.state_dict(), file)
    return file


def test_a_state_dict_says_what_torchvision_says_and_goes_with_the_process(network, file):
    loaded = load(str(file))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.model(pixel_values=image).logits, network(image), atol=1e-5)
    assert loaded.label_names == [f"LABEL_{index}" for index in range(7)]
    assert not loaded.new_head and loaded.commit is None
    assert origin(str(file), None)["source"] == "file"
    assert torchvision_folder(str(file)) == torchvision_folder(str(file))
    assert load(str(file), labels=["cat", "dog"]).new_head


@pytest.mark.long
def test_a_name_takes_the_weights_from_the_cache_and_the_names_of_imagenet(tmp_path, monkeypatch):
    weights = models.ResNet18_Weights.DEFAULT
    network = models.resnet18().eval()
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    loaded = load("torchvision:resnet18")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.model(pixel_values=image).logits, network(image), atol=1e-4)
    assert loaded.label_names[:2] == ["tench", "goldfish"]
    assert len(set(loaded.label_names)) == 1000
    assert loaded.processor.data_config["crop_pct"] == 224 / 256


def test_a_recipe_may_name_them(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    section = TeacherSection(model=file.name)
    assert build_model(section, None, CLASSIFICATION).label_names == [f"LABEL_{index}" for index in range(7)]
    with pytest.raises(UsageError, match="unknown model 'resnet19'; did you mean 'resnet18'"):
        build_model(TeacherSection(model="resnet19"), None, CLASSIFICATION)
    with pytest.raises(UsageError, match="torchvision"):
        build_model(TeacherSection(model="torchvision:resnet19"), None, CLASSIFICATION)


class Touch:
    """A pickle that writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    file, touched = tmp_path / "resnet18-evil.pth", tmp_path / "touched"
    torch.save({"fc.weight": Touch(touched)}, file)
    with pytest.raises(RunError, match="is not read, since it is damaged or holds more than weights"):
        load(str(file))
    file.write_bytes(pickle.dumps(Touch(touched)))
    with pytest.raises(RunError, match="is not read, since it is damaged or holds more than weights"):
        load(str(file))
    assert not touched.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("resnet18-mine.pth", {"epoch": 3}, "holds no state dict"),
        ("resnet18-mine.pth", {"fc.weight": torch.zeros(2, 512)}, "timm has no 'resnet18' with the same weights"),
        ("mobilenet_v2-mine.pth", {"a": torch.zeros(2)}, r"pruned by hf_compress\.prune"),
        ("mine.pth", {"a": torch.zeros(2)}, r"no classifier 'mine' \('mine\.pth' must begin with its architecture"),
        ("resnet18-mine.pth", None, "there is no file"),
    ],
)
def test_what_cannot_be_loaded_says_why_in_words_about_files(tmp_path, name, content, message):
    if content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises((UsageError, RunError), match=message):
        load(str(tmp_path / name))


def test_an_unknown_architecture_is_told_the_nearest():
    with pytest.raises(UsageError, match=r"no classifier 'resnet81'.*did you mean 'resnet"):
        load("torchvision:resnet81")

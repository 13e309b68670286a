"""A run's folder answers under a user's `pipeline` as the run's own model does, before it is finished or published."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    pipeline,
)

from hf_compress import Recipe, compress, load, save
from hf_compress.data.images import noise
from hf_compress.ground.errors import RunError
from hf_compress.hub.contents import checked_contents
from hf_compress.hub.reload_check import check_reload
from hf_compress.models.embeddings import load_backbone
from hf_compress.sections.base import Section
from hf_compress.sections.publish import PublishSection
from hf_compress.steps.base import STEPS, Step, StepResult
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.tasks.features import FEATURES

TINY = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
MULTI = {"problem_type": "multi_label_classification"}
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for shade, name in enumerate(("bus", "lorry")):
        (folder / name).mkdir()
        for number in range(30):
            pixels = torch.randint(0, 128, (24, 24, 3), generator=generator, dtype=torch.uint8) + 120 * shade
            Image.fromarray(pixels.numpy()).save(folder / name / f"{number}.png")
    return folder


def timm_base(folder, names):
    normalisation = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "label_names": names}
    config = TimmWrapperConfig(
        architecture="resnet18", num_labels=len(names), label_names=names, pretrained_cfg=normalisation,
        model_args={"channels": [8, 8, 16, 16]}, **MULTI,
    )  # fmt: skip
    TimmWrapperForImageClassification(config).save_pretrained(folder)
    TimmWrapperImageProcessor(normalisation, architecture="resnet18").save_pretrained(folder)


def resnet_base(folder, names):
    config = ResNetConfig(**TINY, id2label=dict(enumerate(names)), label2id={"x": 5}, **MULTI)
    save(ResNetForImageClassification(config), folder, PROCESSOR)


def recipe(model, photos, *steps):
    sections = {"student": str(model), "data": str(photos), "measure": {"repeats": 3, "batch_size": 2}}
    return Recipe.from_dict(sections | {"steps": list(steps) or [{"finetune": {"epochs": 1, "learning_rate": 1e-2}}]})


@pytest.mark.parametrize(
    ("base", "names"),
    [(timm_base, ["kitten", "puppy"]), (resnet_base, ["lorry", "bus"]), (timm_base, ["kitten", "puppy", "eel"])],
)
def test_a_trained_model_answers_with_its_own_labels_and_with_probabilities(base, names, photos, tmp_path):
    base(tmp_path / "base", names)
    run = compress(recipe(tmp_path / "base", photos), tmp_path / "out", log=lambda line: None)
    assert run.report["labels"] == ["bus", "lorry"]
    answers = pipeline("image-classification", model=str(run.folder))(str(photos / "bus" / "0.png"))
    assert {answer["label"] for answer in answers} == {"bus", "lorry"}
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    config = json.loads((run.folder / "config.json").read_text())
    assert "kitten" not in json.dumps(config) and "problem_type" not in config


def change_config(**values):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def change_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("convolution.weight"))
    save_file(weights | {name: -2 * weights[name]}, folder / "model.safetensors", {"format": "pt"})


def change_processor(folder):
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0, 0, 0], image_std=[0.1] * 3).save_pretrained(
        folder
    )


CHANGES = [
    (change_config(id2label={"0": "dog", "1": "cat"}), "class 0 is 'dog' and not 'cat'"),
    (change_config(id2label={"0": "cat", "1": "dog", "2": "eel"}), "ignore_mismatched_sizes"),
    (change_config(**MULTI), r"pipeline\(\) gives '(cat|dog)' 0\.\d+ and not 0"),
    (change_config(problem_type="regression"), r"pipeline\(\) gives"),
    (change_weights, r"pipeline\(\) gives"),
    (change_processor, r"pipeline\(\) gives"),
    (lambda folder: (folder / "model.safetensors").unlink(), "OSError"),
]


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(**TINY, id2label={0: "cat", 1: "dog"}))
    torch.nn.init.normal_(model.classifier[1].weight)
    save(model, tmp_path, PROCESSOR)
    return tmp_path, load(str(tmp_path))


def test_a_folder_that_answers_as_its_model_passes(classifier):
    folder, own = classifier
    check_reload(folder, own, noise(3), CLASSIFICATION, ["cat", "dog"])


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_folder_that_answers_otherwise_is_refused(change, message, classifier):
    folder, own = classifier
    change(folder)
    with pytest.raises(RunError, match=rf"does not reload as it was: .*({message})"):
        check_reload(folder, own, noise(3), CLASSIFICATION, ["cat", "dog"])


@pytest.mark.parametrize(("change", "message"), [(change_weights, "embeddings"), (change_processor, "embeddings")])
def test_a_backbone_is_compared_by_its_embeddings(change, message, tmp_path):
    save(ResNetModel(ResNetConfig(**TINY)), tmp_path, PROCESSOR)
    own = load_backbone(str(tmp_path))
    check_reload(tmp_path, own, noise(3), FEATURES, [])
    change(tmp_path)
    with pytest.raises(RunError, match=rf"does not reload as it was: .*{message}"):
        check_reload(tmp_path, own, noise(3), FEATURES, [])


class Spoil(Step):
    """Leaves a model that `pipeline` reads otherwise."""

    Config = Section

    def apply(self, model, context):
        model.config.problem_type = "multi_label_classification"
        return StepResult(model, {})


def test_a_run_that_reloads_otherwise_fails_and_keeps_its_work(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS._entries, "spoil", Spoil)
    resnet_base(tmp_path / "base", ["cat", "dog"])
    with pytest.raises(RunError, match=r"pipeline\(\) gives") as caught:
        compress(recipe(tmp_path / "base", photos, "spoil"), tmp_path / "out", log=lambda line: None)
    assert "--resume" in caught.value.__notes__[0]
    assert (tmp_path / "out.partial" / "units" / "1-spoil" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "out").exists()


def test_what_answers_otherwise_is_not_published(photos, tmp_path):
    resnet_base(tmp_path / "base", ["cat", "dog"])
    folder = compress(recipe(tmp_path / "base", photos), tmp_path / "out", log=lambda line: None).folder
    section = PublishSection(to="alice/small", license="apache-2.0")
    assert "model.safetensors" in checked_contents(folder, section, [], False)
    change_config(id2label={"0": "lorry", "1": "bus"})(folder)
    with pytest.raises(RunError, match="class 0 is 'lorry' and not 'bus'"):
        checked_contents(folder, section, [], False)

"""A pretrained teacher with a new head and few images: the head alone is tried first, and may stay."""

import pytest
import torch

from hf_compress import Recipe, save
from hf_compress.data import load_data
from hf_compress.ground.errors import RunError
from hf_compress.ground.units import Units
from hf_compress.models.head import find_head
from hf_compress.models.students import build_registered
from hf_compress.report.card_facts import what_was_done
from hf_compress.report.schema_rows import Details
from hf_compress.run import teacher as teachers
from hf_compress.run.teacher import load_teachers, train_teachers
from hf_compress.training import fitting, probing

SPLITS = {"train": "train[:96]", "validation": "train[96:160]", "test": "train[160:200]"}
TRAINING = {"epochs": 2, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with batch norms, folded and with shifts as trained ones have, of other classes."""
    torch.manual_seed(0)
    built = build_registered("resnet18", list("abcdefghij"), width=0.125, image_size=16)
    for norm in (module for module in built.model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.bias, std=1e-4)
    place = tmp_path_factory.mktemp("teacher")
    save(built.model, place, built.processor)
    return str(place)


class Trained:
    """A teacher trained as a recipe says.

    Attributes:
        before, after: its tensors.
        head: the names of those of the head.
    """

    def __init__(self, work, model, log=None, **finetune):
        section = {"model": model, "finetune": TRAINING | finetune}
        if model == "resnet18":
            section |= {"width": 0.125, "image_size": 16}
        data = {"path": "digits", "splits": SPLITS}
        recipe = Recipe.from_dict({"teacher": section, "student": "resnet18", "data": data, "steps": ["distill"]})
        self.lines = []
        found, images = load_teachers(recipe, load_data(recipe.data, seed=0), [0], self.lines.append)
        model = found[0].model
        self.head = find_head(model, found[0].processor).keys()
        self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        log = log or self.lines.append
        (trained,), (self.details,) = train_teachers(recipe, found, images, [0], Units(work, seed=0), log)
        self.after = trained.model.state_dict()

    @property
    def changed(self):
        return {name for name, tensor in self.after.items() if not torch.equal(tensor, self.before[name])}

    def same_as(self, other):
        return all(torch.equal(tensor, other.after[name]) for name, tensor in self.after.items())


@pytest.fixture(scope="module")
def head(folder, tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("head"), folder, layers="head")


@pytest.fixture
def better(monkeypatch):
    """Let the training of all layers end with a given metric on validation images."""

    def set_to(value):
        def train(*arguments):
            details = teachers_train(*arguments)
            return details | {"epochs": [epoch | {"validation_accuracy": value} for epoch in details["epochs"]]}

        monkeypatch.setattr(teachers, "train", train)
        monkeypatch.setattr(fitting, "best_epoch", lambda began, epochs, metric: len(epochs))

    teachers_train = teachers.train
    return set_to


def test_a_probe_changes_the_head_and_no_weight_or_statistic_of_the_body(head):
    assert head.changed == set(head.head)
    assert "trained_layers" not in head.details


def test_the_head_alone_stays_where_all_layers_are_no_better(folder, better, tmp_path):
    better(0.0)
    auto = Trained(tmp_path, folder)
    assert auto.changed == set(auto.head)
    assert auto.details["trained_layers"] == "head" and len(auto.details["rejected"]["epochs"]) == 2
    assert auto.details["head_alone"]["validation_accuracy"] > 0.3
    alone = auto.details["head_alone"]["validation_accuracy"]
    assert f"all layers: no better than {alone:.4f}; the body stays as it was" in auto.lines[-1]
    Details.model_validate(auto.details)
    row = {"stage": "teacher", "details": auto.details}
    assert what_was_done(row) == "the head alone, solved for: no worse than with all layers trained"
    better(auto.details["head_alone"]["validation_accuracy"])
    assert Trained(tmp_path / "equal", folder).same_as(auto)


def test_all_layers_stay_where_they_are_better_and_began_with_the_solved_head(folder, head, better, tmp_path):
    better(1.0)
    auto = Trained(tmp_path / "auto", folder)
    assert auto.changed == set(auto.after)
    assert (auto.details["trained_layers"], "rejected" in auto.details) == ("all", False)
    assert auto.details["epochs"][0]["training_loss"] < head.details["epochs"][0]["training_loss"]
    assert "they stay trained" in auto.lines[-1]
    assert what_was_done({"stage": "teacher", "details": auto.details}).endswith("better than the head alone")


@pytest.mark.long
def test_a_model_from_scratch_or_with_many_images_is_trained_as_ever(folder, monkeypatch, tmp_path):
    scratch, asked = (Trained(tmp_path / name, "resnet18", **layers) for name, layers in LAYERS.items())
    assert scratch.same_as(asked) and scratch.details == asked.details
    monkeypatch.setattr(teachers, "FEW_IMAGES", 96)
    many, asked = (Trained(tmp_path / f"many {name}", folder, **layers) for name, layers in LAYERS.items())
    assert many.same_as(asked) and many.details == asked.details


LAYERS = {"auto": {}, "all": {"layers": "all"}}


@pytest.mark.long
def test_without_a_head_that_is_found_all_layers_are_trained(folder, monkeypatch, tmp_path):
    def none(model, processor):
        raise RunError("there is none")

    asked = Trained(tmp_path / "all", folder, layers="all")
    monkeypatch.setattr(probing, "find_head", none)
    auto = Trained(tmp_path / "auto", folder)
    assert auto.same_as(asked) and auto.details == asked.details
    assert any("is not tried alone: there is none" in line for line in auto.lines)


@pytest.mark.parametrize("at", ["epoch 1 of 2", pytest.param("epoch 2 of 2", marks=pytest.mark.long)])
def test_an_interrupted_trial_goes_on_to_the_same_weights(at, folder, tmp_path):
    whole, lines = Trained(tmp_path / "whole", folder), []

    def stop(line):
        lines.append(line)
        if at in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trained(tmp_path / "part", folder, log=stop)
    again = Trained(tmp_path / "part", folder)
    assert again.same_as(whole) and again.details == whole.details

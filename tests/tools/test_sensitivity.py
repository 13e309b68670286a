"""Accuracy by group and ratio, and pruning by it under one budget."""

import copy
import csv

import pytest
import torch
from detectors import saved_detector, write_squares, yolos
from PIL import Image

from hf_compress import Recipe, save
from hf_compress.data.boxes import PADDING
from hf_compress.data.images import batches
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.load import load
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.allocate.shares import shares_for_budget
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.weights import WeightPruner, prunable_weights
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.tasks.detection import DETECTION
from hf_compress.tools import sensitivity as tool
from hf_compress.tools.evaluation import load_with_data
from hf_compress.tools.sensitivity import sensitivity
from hf_compress.training.predicting import evaluate

DIGITS = list("0123456789")
SPLITS = {"train": "train[:60]", "validation": "train[60:100]", "test": "train[100:120]"}


def written(path, rows):
    lines = [f"{name},100,{ratio},0,{drop}" for name, ratio, drop in rows]
    path.write_text("\n".join(["name,size,ratio,accuracy,drop", *lines]))
    return str(path)


def test_shares_spend_the_budget_where_it_hurts_least(tmp_path):
    """At a tolerance of 0.1 the robust layer loses 3/4 and the other 1/4: half of all."""
    file = written(tmp_path / "s.csv", [("robust", 0.75, 0.1), ("delicate", 0.5, 0.2)])
    shares = shares_for_budget(file, {"robust": 100, "delicate": 100}, 0.5)
    assert shares == pytest.approx({"robust": 0.75, "delicate": 0.25}, abs=1e-3)


def test_sizes_weigh_the_budget(tmp_path):
    file = written(tmp_path / "s.csv", [("robust", 0.75, 0.1), ("delicate", 0.5, 0.2)])
    shares = shares_for_budget(file, {"robust": 300, "delicate": 100}, (0.75 * 300 + 0.25 * 100) / 400)
    assert shares == pytest.approx({"robust": 0.75, "delicate": 0.25}, abs=1e-3)


def test_a_gain_of_accuracy_does_not_hide_a_later_loss(tmp_path):
    file = written(tmp_path / "s.csv", [("a", 0.25, -0.1), ("a", 0.5, 0.0), ("a", 0.75, 0.5), ("b", 0.5, 0.5)])
    shares = shares_for_budget(file, {"a": 1, "b": 1}, 0.25)
    assert shares["a"] == pytest.approx(0.5, abs=1e-3)
    assert shares["b"] == pytest.approx(0.0, abs=1e-3)


def test_a_loss_above_1_and_the_name_of_the_metric_do_not_matter(tmp_path):
    """The tolerance that spends the budget is 1.2: a loses 3/4, and of b, which loses 2 at 1/2, 3/10 go."""
    file = tmp_path / "s.csv"
    file.write_text("name,size,ratio,error,drop\na,1,0.75,1.3,1.2\nb,1,0.5,2.1,2.0\n")
    assert shares_for_budget(str(file), {"a": 1, "b": 1}, 0.525) == pytest.approx({"a": 0.75, "b": 0.3}, abs=1e-3)


def test_files_that_do_not_fit_are_one_sentence(tmp_path):
    with pytest.raises(RunError, match="is not a CSV of `hf-compress sensitivity`"):
        shares_for_budget(str(tmp_path / "missing.csv"), {"a": 1}, 0.5)
    other = tmp_path / "other.csv"
    other.write_text("x,y\n1,2\n")
    with pytest.raises(RunError, match="is not a CSV of `hf-compress sensitivity`"):
        shares_for_budget(str(other), {"a": 1}, 0.5)
    with pytest.raises(RunError, match="does not measure 'b'"):
        shares_for_budget(written(tmp_path / "s.csv", [("a", 0.5, 0.1)]), {"a": 1, "b": 1}, 0.5)
    with pytest.raises(UsageError, match="sensitivity decides what each layer loses"):
        step = {"prune": {"sensitivity": "s.csv", "scope": "global"}}
        Recipe.from_dict({"teacher": "a/b", "data": "digits", "steps": [step]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    loaded = build_registered("resnet18", DIGITS, width=0.125, image_size=32)
    save(loaded.model, folder, loaded.processor)
    recipe = {"teacher": "a/b", "data": {"path": "digits", "splits": SPLITS}, "steps": ["prune"]}
    (folder / "recipe.yaml").write_text(Recipe.from_dict(recipe).to_yaml())
    return folder


def test_channels_are_measured_by_group_and_a_recipe_prunes_by_them(folder, tmp_path):
    measured = sensitivity(str(folder), tmp_path, ratios=[0.5])
    with open(tmp_path / "sensitivity.csv", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [m.name for m in measured]
    with Image.open(tmp_path / "sensitivity.png") as picture:
        assert picture.width > 100

    model, image = load(str(folder)).model, torch.zeros(1, 3, 32, 32)
    groups = ChannelPruner(model, image, PruneSection(round_to=1), set()).groups(model)
    assert {(m.name, m.size) for m in measured} == {(group.name, group.width) for group in groups}

    file = written(tmp_path / "s.csv", [(g.name, 0.5, 0.0 if index % 2 else 0.4) for index, g in enumerate(groups)])
    config = PruneSection(sensitivity=file, round_to=1, floor=0.0)
    pruner = ChannelPruner(model, image, config, set())
    pruner.prune(model, 0.2)
    assert pruner.sparsity(model) == pytest.approx(0.2, abs=0.02)
    left = {group.name: group.width for group in pruner.groups(model)}
    lost = [1 - left[group.name] / group.width for group in groups]
    assert min(lost[1::2]) > max(lost[::2])


@pytest.mark.parametrize("granularity", ["channel", pytest.param("weight", marks=pytest.mark.long)])
def test_what_is_left_makes_up_for_what_went(folder, tmp_path, monkeypatch, granularity):
    whole = load(str(folder)).model
    judged = []

    def off(loaded, task, inputs):
        with torch.no_grad():
            found, expected = (each(pixel_values=inputs[0]["pixel_values"]).logits for each in (loaded.model, whole))
        return float((found - expected).square().mean())

    monkeypatch.setattr(tool, "_judged", lambda *arguments: judged.append(off(*arguments)) or judged[-1])
    errors = {}
    for repair in ("none", "batch_norm", "least_squares"):
        judged.clear()
        measured = sensitivity(str(folder), tmp_path / repair, granularity=granularity, ratios=[0.5], repair=repair)
        assert len(judged) == len(measured) + 1 and judged[0] == 0
        errors[repair] = judged[1:]
        with open(tmp_path / repair / "sensitivity.csv", encoding="utf-8") as file:
            assert {row["repair"] for row in csv.DictReader(file)} == {repair}
    assert sum(errors["least_squares"]) < 0.7 * sum(errors["none"])
    assert errors["batch_norm"] != errors["none"]
    sizes = {m.name: m.size for m in measured}
    assert shares_for_budget(str(tmp_path / "least_squares" / "sensitivity.csv"), sizes, 0.3).keys() == sizes.keys()


@pytest.mark.parametrize("name", ["sensitivity.csv", "sensitivity.png"])
def test_a_file_of_somebody_else_is_refused_before_anything_is_measured(name, tmp_path):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UsageError, match=f"{name}' would be replaced"):
        sensitivity("no/such-model", tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        sensitivity("no/such-model", tmp_path / name)
    assert (tmp_path / name).read_text() == "years of work"


def test_what_the_step_prune_does_not_take_is_refused(tmp_path):
    sections = {"task": "features", "teacher": "a/b", "student": "resnet18", "data": "digits"}
    (tmp_path / "recipe.yaml").write_text(Recipe.from_dict(sections | {"steps": ["distill_features"]}).to_yaml())
    with pytest.raises(UsageError, match="for the step 'prune', which 'task: features' does not have"):
        sensitivity(str(tmp_path), tmp_path / "out")


def test_the_accuracy_of_a_weight_is_that_of_the_pruned_model(folder, tmp_path):
    measured = sensitivity(str(folder), tmp_path, granularity="weight", ratios=[0.9], repair="none")
    loaded = load(str(folder))
    assert [m.name for m in measured] == list(prunable_weights(loaded.model, set()))
    data = load_with_data(CLASSIFICATION, str(folder), None)[1]
    baseline = evaluate(copy.deepcopy(loaded.model), loaded.processor, data, "validation")["accuracy"]
    config = PruneSection(granularity="weight", floor=0.0)
    others = {name.removesuffix(".weight") for name in prunable_weights(loaded.model, set())} - {
        measured[0].name.removesuffix(".weight")
    }
    WeightPruner(loaded.model, config, others).prune(loaded.model, 0.9)
    accuracy = evaluate(loaded.model, loaded.processor, data, "validation")["accuracy"]
    assert measured[0].value == pytest.approx(accuracy)
    assert measured[0].drop == pytest.approx(baseline - accuracy)


def test_weights_lose_what_they_bear(tmp_path):
    model = build_registered("resnet18", DIGITS, width=0.125, image_size=32).model
    weights = prunable_weights(model, set())
    first = next(iter(weights))
    file = written(tmp_path / "s.csv", [(name, 0.5, 0.9 if name == first else 0.01) for name in weights])
    WeightPruner(model, PruneSection(granularity="weight", sensitivity=file), set()).prune(model, 0.4)
    zeros = {name: float((weight == 0).float().mean()) for name, weight in weights.items()}
    assert sum(int((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values()) == (
        pytest.approx(0.4, abs=0.01)
    )
    assert zeros[first] < 0.05 < 0.35 < min(share for name, share in zeros.items() if name != first)


@pytest.mark.parametrize("ratio", [0, 1, 30, -0.5])
def test_a_ratio_is_a_fraction(ratio, tmp_path):
    with pytest.raises(UsageError, match="a fraction lies between 0 and 1"):
        sensitivity("some/model", tmp_path, data="digits", ratios=[0.5, ratio])


def test_batches_may_have_other_numbers_of_objects(tmp_path):
    """A detector's targets are as many rows as the picture with the most objects has."""
    folder = saved_detector(yolos(), tmp_path / "detector")
    data = write_squares(tmp_path / "squares")
    images = load_with_data(DETECTION, folder, data)[1]
    loaded = DETECTION.load(folder)
    shown = batches(images.test, loaded.processor, 1)
    items = (images.test[index] for index in range(8))
    inputs = [part | DETECTION.targets([item], loaded.processor) for part, item in zip(shown, items, strict=True)]
    assert len({part["labels"].shape[1] for part in inputs}) > 1
    one = torch.cat(tool._padded([part["labels"] for part in inputs]))
    assert one.shape == (8, 2, 6) and (one[:, 1, 0] == PADDING).any()
    assert 0 <= tool._judged(loaded, DETECTION, inputs) <= 1

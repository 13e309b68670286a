"""Ensembles of teachers: the mean of their softmax outputs, each with its own view and its own order of labels."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from torch import nn
from torchvision.transforms.v2 import functional as F
from transformers import ViTImageProcessor

from hf_compress import Recipe, compress, save
from hf_compress.data import Collator
from hf_compress.data.images import input_size
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.losses.logits import mse
from hf_compress.models.ensemble import Ensemble, EnsembleProcessor
from hf_compress.models.students import build_registered
from hf_compress.report.card_facts import sources
from hf_compress.report.table import report_table
from hf_compress.sections.distillation import LossConfig

SPLITS = {"train": "train[:100]", "validation": "train[300:350]", "test": "train[400:450]"}
DIGITS = [str(digit) for digit in range(10)]
TRAINING = {"epochs": 1, "learning_rate": 3e-3}


class Fixed(nn.Module):
    """Gives the same logits for every picture."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.logits.expand(len(pixel_values), -1))


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum()


def test_the_softmax_of_an_ensemble_is_the_mean_of_its_members():
    first, second = [2.0, 0.0, -1.0], [0.5, 3.0, 1.0]
    ensemble = Ensemble([Fixed(first), Fixed(second)], [[0, 1, 2], [2, 0, 1]])
    expected = (softmax(first) + softmax([1.0, 0.5, 3.0])) / 2
    logits = ensemble(pixel_values=(torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 6, 6))).logits
    assert logits.exp()[3].tolist() == pytest.approx(expected.tolist())
    assert logits.softmax(dim=1)[0].tolist() == pytest.approx(expected.tolist())
    student = torch.zeros(4, 3)
    assert mse(student, logits, None, LossConfig()).item() == pytest.approx(((1 / 3 - expected) ** 2).mean())


def test_every_member_gets_its_own_size_and_normalisation_of_the_same_view():
    view = torch.randint(0, 256, (3, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = ViTImageProcessor(size={"height": 10, "width": 10}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    large = ViTImageProcessor(size={"height": 20, "width": 20}, image_mean=[0.1, 0.2, 0.3], image_std=[1.0] * 3)
    members = EnsembleProcessor([small, large])
    batch = Collator(small, members)([{"view": view, "label": 1}])
    first, second = batch["teacher_pixel_values"]
    assert torch.allclose(first[0], (view / 255 - 0.5) / 0.25, atol=1e-6)
    resized = F.resize(view, [20, 20], antialias=True)
    mean = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert torch.allclose(second[0], resized / 255 - mean, atol=2 / 255)
    assert torch.equal(batch["pixel_values"], first)
    assert input_size(members) == (20, 20)


def member(folder, name, labels=None, image_size=32):
    built = build_registered("resnet18", labels or DIGITS, width=0.125, image_size=image_size)
    save(built.model, folder / name, built.processor)
    return str(folder / name)


def recipe(ensemble, **sections):
    values = {
        "teacher": {"ensemble": ensemble},
        "student": {"model": "resnet18", "width": 0.125},
        "data": {"path": "digits", "splits": SPLITS},
        "steps": [{"distill": TRAINING}],
        "measure": {"repeats": 3, "batch_size": 2},
    }
    return Recipe.from_dict(values | sections)


@pytest.mark.long
def test_a_student_learns_from_members_of_two_sizes_and_two_orders_of_labels(tmp_path):
    torch.manual_seed(0)
    fresh = {"model": "resnet18", "width": 0.125, "image_size": 24, "finetune": TRAINING}
    ensemble = [member(tmp_path, "a"), member(tmp_path, "b", DIGITS[::-1], 40), fresh]
    run = compress(recipe(ensemble), tmp_path / "out", log=lambda line: None)
    rows = run.report["rows"]
    stages = ["teacher", "teacher 1", "teacher 2", "teacher 3", "student", "1 distill"]
    assert [row["stage"] for row in rows] == stages
    for key in ("parameters", "macs", "bytes"):
        assert rows[0]["cost"][key] == sum(row["cost"][key] for row in rows[1:4])
    assert rows[4]["cost"]["macs"] == rows[2]["cost"]["macs"]  # the student has the largest size of the members
    assert rows[0]["latency"]["batch_2"]["p50_ms"] > 0
    assert [len(row.get("details", {}).get("epochs", [])) for row in rows] == [0, 0, 0, 1, 0, 1]
    assert [source["id"] for source in sources(run.report)] == ensemble[:2]
    assert "ensemble of 3 models" in (run.folder / "README.md").read_text()
    again = Recipe.load(run.folder / "recipe.yaml")
    assert yaml.safe_load(again.to_yaml()) == yaml.safe_load((run.folder / "recipe.yaml").read_text())


def test_the_table_leaves_empty_what_was_not_measured():
    row = {"stage": "teacher", "quality": {}, "latency": {"batch_1": {"p50_ms": 3.0, "p95_ms": 4.0}}}
    row["cost"] = dict.fromkeys(("parameters", "nonzero_parameters", "macs", "bytes", "peak_memory_bytes"), 1e6)
    timed = row | {"stage": "student", "runtimes": {"compile": {"batch_1": {"p50_ms": 1.5, "p95_ms": 2.0}}}}
    text = io.StringIO()
    Console(file=text, width=120).print(report_table({"rows": [row, timed]}))
    (line,) = [line for line in text.getvalue().splitlines() if "latency with compile, one image, p50" in line]
    assert line.count("ms") == 1


def test_two_members_of_one_architecture_are_two_models(tmp_path):
    from hf_compress.data import load_data
    from hf_compress.ground.units import Units
    from hf_compress.run.seeds import Seeds
    from hf_compress.run.teacher import load_teachers, train_teachers

    fresh = {"model": "resnet18", "width": 0.125, "image_size": 16, "finetune": TRAINING}
    wanted = recipe([fresh, fresh])
    data, seeds = load_data(wanted.data, 0), Seeds.of(wanted).teachers
    untrained, data = load_teachers(wanted, data, seeds, lambda line: None)
    trained, details = train_teachers(wanted, untrained, data, seeds, Units(tmp_path, 0), lambda line: None)
    for teachers in (untrained, trained):
        first, second = (one.model.classifier[1].weight for one in teachers)
        assert not torch.equal(first, second)
    assert details[0]["epochs"] != details[1]["epochs"]


def test_no_two_models_of_a_run_begin_alike():
    from hf_compress.run.seeds import Seeds

    fresh = {"model": "resnet18", "width": 0.125, "image_size": 16, "finetune": TRAINING}
    seeds = Seeds.of(recipe([fresh] * 3))
    assert len({seeds.student, *seeds.teachers}) == 4
    assert seeds != Seeds.of(recipe([fresh] * 3, seed=1))


def test_members_with_other_labels_are_refused(tmp_path):
    ensemble = [member(tmp_path, "a"), member(tmp_path, "b", [f"digit {name}" for name in DIGITS])]
    with pytest.raises(RunError, match=r"labels of teacher .*b \(digit 0.* are not those of the data \(0, 1"):
        compress(recipe(ensemble), tmp_path / "out", log=lambda line: None)


def test_members_are_compared_by_label_where_the_data_has_none(tmp_path, unlabelled_photos):
    ensemble = [member(tmp_path, "a", ["cat", "dog"]), member(tmp_path, "b", ["cat", "cow"])]
    with pytest.raises(RunError, match=r"b \(cat, cow\) are not those of .*a \(cat, dog\): an ensemble has one set"):
        compress(recipe(ensemble, data=unlabelled_photos), tmp_path / "out", log=lambda line: None)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"teacher": {"ensemble": ["a/b"]}}, "'teacher.ensemble' .*at least 2"),
        ({"teacher": {"ensemble": ["a/b", {"model": "c/d", "widht": 1}]}}, "'teacher.ensemble.1.widht'.*'width'"),
        ({"teacher": {"ensemble": ["a/b", "c/d"], "model": "e/f"}}, "unknown key 'teacher.model'"),
        ({"student": "teacher"}, "the teacher, which is an ensemble: name a single model"),
        ({"task": "features", "steps": ["distill_features"]}, "name one teacher"),
    ],
)
def test_mistakes_are_one_sentence(sections, says):
    with pytest.raises(UsageError, match=says):
        recipe(["a/b", "c/d"], **sections)


def test_the_commits_of_the_members_are_pinned():
    pinned = recipe(["a/b", {"model": "c/d", "revision": "main"}, "./e"]).pinned(teacher=["1" * 40, "2" * 40, None])
    assert [one.revision for one in pinned.teacher.members] == ["1" * 40, "2" * 40, None]

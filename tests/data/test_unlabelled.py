"""Images without labels: where they come from, who sees them, and what is told of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_compress import Recipe, compress
from hf_compress.data import load_data
from hf_compress.data.decoded import Room
from hf_compress.data.images import IGNORED_LABEL, decode
from hf_compress.data.parts import Parts, set_aside
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.students import build_registered
from hf_compress.report.card_facts import data_rows
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.tools.evaluation import evaluate_folder
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.trainer import DistillationTrainer

THIRDS = {"train": 0.6, "validation": 0.1, "test": 0.3}
SMALL = {"train": "train[:100]", "validation": "train[300:330]", "test": "train[400:430]"}


def digits(**options):
    return load_data(DataSection(path="digits", **options), seed=3)


def pictures(split):
    return [decode(picture)[0].numpy().tobytes() for picture in split.pictures[:][split.image_column]]


def test_a_fraction_of_the_labels_is_kept_and_the_other_images_stay():
    whole, part = digits(splits=THIRDS), digits(splits=THIRDS, labelled=0.1)
    assert len(part.train) == round(0.1 * len(whole.train)) == 108
    assert sorted(pictures(part.with_unlabelled)) == sorted(pictures(whole.train))
    assert set(part.unlabelled.labels) == {IGNORED_LABEL}
    assert np.bincount(part.train.labels).min() >= 10
    label_of = dict(zip(pictures(whole.train), whole.train.labels, strict=True))
    assert part.train.labels == [label_of[picture] for picture in pictures(part.train)]
    assert pictures(part.test) == pictures(whole.test)
    assert part.facts["splits"]["train"]["from"] == "10% of 60% of all images"
    assert part.facts["splits"]["unlabelled"]["images"] == len(whole.train) - 108


def test_the_control_without_the_other_images_has_the_same_labelled_ones():
    """As the recipe distill-unlabelled says."""
    part, control = digits(splits=THIRDS, labelled=0.1), digits(splits=THIRDS | {"train": 0.06})
    assert pictures(control.train) == pictures(part.train)
    assert control.train.labels == part.train.labels
    assert pictures(control.test) == pictures(part.test)
    assert control.unlabelled is None


def test_training_images_that_came_without_label_are_set_aside():
    train = digits(splits=SMALL).train
    train.labels[5] = train.labels[7] = IGNORED_LABEL
    known, others = set_aside(train, 1.0, seed=0)
    assert (len(known), len(others)) == (98, 2)
    assert pictures(others) == [pictures(train)[5], pictures(train)[7]]
    train.labels = [IGNORED_LABEL] * len(train)
    assert set_aside(train, 1.0, seed=0) == (train, None)
    with pytest.raises(UsageError, match="keeps a fraction of the labels, but the data has none"):
        set_aside(train, 0.5, seed=0)


def test_more_folders_and_splits_join_whatever_their_columns_and_labels(tmp_path, unlabelled_photos):
    import datasets

    rows = {"photo": [Image.new("RGB", (9, 9), (n, 0, 0)) for n in range(5)], "kind": ["a"] * 5}
    table = datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())
    (tmp_path / "table").mkdir()
    table.to_parquet(tmp_path / "table" / "train.parquet")
    (tmp_path / "table" / "empty").mkdir()
    sources = [unlabelled_photos, str(tmp_path / "table"), {"path": "digits", "split": "train[500:520]"}]
    data = digits(splits=SMALL, unlabelled=sources)
    assert len(data.unlabelled) == 60 + 5 + 20
    assert len(data.with_unlabelled) == 185
    assert data.with_unlabelled.labels[:100] == data.train.labels
    assert data.with_unlabelled[163]["view"].unique().tolist() == [0, 3]
    facts = data.facts["splits"]["unlabelled"]
    assert facts["unlabelled_images"] == facts["images"] == 85
    assert facts["from"].endswith(", digits")
    assert data.facts["unlabelled_revisions"] == [None, None, None]
    assert data_rows({"data": data.facts})[-1][:2] == ("unlabelled", 85)
    aligned = data.aligned([str(digit) for digit in reversed(range(10))])
    assert set(aligned.unlabelled.labels) == {IGNORED_LABEL}


def test_files_of_a_source_that_are_left_out_are_counted(tmp_path, unlabelled_photos):
    (tmp_path / "photos" / "notes.txt").touch()
    (tmp_path / "photos" / "more").mkdir()
    (tmp_path / "photos" / "more" / "1.heic").touch()
    parts = Parts({}, {}, {})
    _, left_out = parts.read_unlabelled(DataSection(path="digits", unlabelled=[unlabelled_photos]), Room(0))
    assert len(parts.images["unlabelled"]) == 60
    assert sorted((item.count, item.example) for item in left_out) == [(1, "more/1.heic"), (1, "notes.txt")]


def test_the_same_view_is_augmented():
    data = digits(splits=SMALL, labelled=0.5)
    data.train.augment = lambda view: torch.full_like(view, 7)
    assert [int(item["view"].max()) for item in data.with_unlabelled.__getitems__([0, 99])] == [7, 7]


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["./nowhere"], r"'data.unlabelled.0.path': there is no folder './nowhere'"),
        ([{"path": "digits", "split": "trian"}], "'data.unlabelled.0.split' names the split 'trian'.*'train'"),
        ([{"path": "x/y", "spilt": "train"}], "unknown key 'unlabelled.0.spilt'.*'split'"),
        (["digits"], "holds the data set itself, with its test images: name the split"),
    ],
)
def test_mistakes_name_the_key(sources, says):
    from hf_compress.sections.base import validate

    with pytest.raises(UsageError, match=says):
        load_data(validate(DataSection, {"path": "digits", "unlabelled": sources}), 0)


@pytest.fixture
def seen(monkeypatch):
    """The labels of every training batch."""
    batches = []
    compute_loss = DistillationTrainer.compute_loss

    def recorded(self, model, inputs, *args, **kwargs):
        if model.training:
            batches.append(inputs["labels"])
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", recorded)
    return batches


def training(folder, teacher=None, **options):
    student = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=16)
    context = Context(digits(splits=SMALL, labelled=0.3), student.processor, teacher, 0, folder, log=lambda line: None)
    return train(student.model, context, DistillSection(epochs=1, **options), teacher)


@pytest.mark.parametrize("loss", ["mse", "mse_ce", "dkd"])
def test_a_distillation_sees_all_images_and_training_on_labels_only_the_labelled(tmp_path, seen, loss):
    teacher = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=16)
    training(tmp_path, teacher, loss=loss)
    assert torch.cat(seen).eq(IGNORED_LABEL).sum() == 70
    seen.clear()
    training(tmp_path)
    assert len(torch.cat(seen)) == 30
    assert not torch.cat(seen).eq(IGNORED_LABEL).any()


@pytest.mark.long
def test_a_run_tells_of_its_unlabelled_images_and_its_model_is_measured_without_them(tmp_path, unlabelled_photos):
    teacher = {"model": "resnet18", "width": 0.125, "image_size": 16, "finetune": {"epochs": 1}}
    prune = {"amount": 0.5, "iterative": False}
    recipe = Recipe.from_dict(
        {
            "teacher": teacher,
            "student": {"model": "resnet18", "width": 0.125},
            "data": {"path": "digits", "splits": SMALL, "labelled": 0.5, "unlabelled": [unlabelled_photos]},
            "steps": [
                {"distill": {"epochs": 1, "losses": [{"loss": "kl"}, {"loss": "ce"}]}},
                {"prune": {**prune, "recovery": {"losses": [{"loss": "mse_ce"}]}}},
            ],
            "measure": {"repeats": 3, "batch_size": 2},
        }
    )
    run = compress(recipe, tmp_path / "out", log=lambda line: None)
    splits = run.report["data"]["splits"]
    assert (splits["train"]["images"], splits["unlabelled"]["images"]) == (50, 110)
    assert "| unlabelled | 110 |" in (run.folder / "README.md").read_text()
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    again = evaluate_folder(str(run.folder), None, "test")["quality"]
    assert again["accuracy"] == pytest.approx(run.report["rows"][-1]["quality"]["accuracy"])


def test_a_loss_of_labels_needs_some(tmp_path, unlabelled_photos):
    data = {"path": unlabelled_photos}
    with pytest.raises(RunError, match="has no labels: name a teacher"):
        compress(Recipe.from_dict({"student": "resnet18", "data": data, "steps": ["finetune"]}), tmp_path / "out")

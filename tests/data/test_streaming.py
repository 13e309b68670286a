"""Streams of training images: what they give, and how little they hold."""

import io
import shutil
from collections import Counter

import datasets
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from transformers import set_seed

from hf_compress.data import load_data
from hf_compress.data.sources import load_raw
from hf_compress.data.streaming import ImageStream
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.students import build_model
from hf_compress.run.recipe import Recipe
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.sections.models import StudentSection
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}
TRAIN = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits as parquet: 150 training images in three files, 40 to validate and 40 to test."""
    folder = tmp_path_factory.mktemp("digits")
    digits = load_raw(DataSection(path="digits"), "data").rows["train"]
    for number in range(3):
        digits.select(range(number * 50, number * 50 + 50)).to_parquet(folder / f"train-{number}.parquet")
    digits.select(range(200, 240)).to_parquet(folder / "validation.parquet")
    digits.select(range(300, 340)).to_parquet(folder / "test.parquet")
    return folder


def streamed(folder, **options):
    return load_data(DataSection(path=str(folder), streaming=True, **{"train_images": TRAIN} | options), seed=0)


def student(data):
    torch.manual_seed(0)
    return build_model(StudentSection(**TINY), data.label_names, CLASSIFICATION)


def keys(items):
    return [(item["view"].numpy().tobytes(), item["label"]) for item in items]


def test_an_epoch_gives_every_image_once_in_another_order(folder):
    stored = load_data(DataSection(path=str(folder)), seed=0)
    stream = streamed(folder).stream
    first, again = keys(stream), keys(stream)
    stream.set_epoch(1)
    second = keys(stream)
    assert first == again != second
    assert Counter(first) == Counter(second) == Counter(keys(stored.train[i] for i in range(TRAIN)))


@pytest.mark.parametrize("length", [70, 400])
def test_an_epoch_may_be_shorter_or_longer_than_the_data(folder, length):
    stream = streamed(folder).stream
    stream.length = length
    assert len(keys(stream)) == length


def test_workers_share_the_images(folder):
    data = streamed(folder, workers=3)
    loader = torch.utils.data.DataLoader(data.stream, batch_size=None, num_workers=3)
    assert Counter(keys(loader)) == Counter(keys(data.stream))


def test_held_out_images_and_a_sample_of_the_training_images_are_kept(folder):
    data, stored = streamed(folder), load_data(DataSection(path=str(folder)), seed=0)
    assert keys(data.test) == keys(stored.test)
    assert keys(data.validation) == keys(stored.validation)
    assert Counter(keys(data.train)) == Counter(keys(stored.train))
    assert data.facts["splits"]["train"] == {
        "images": TRAIN,
        "from": "stream of split train",
        "corrupt_images_skipped": None,
        "unlabelled_images": None,
        "images_by_class": {},
    }


def test_the_labels_of_a_stream_follow_those_of_a_model(folder):
    data = streamed(folder)
    before = keys(data.stream)
    assert {label for _, label in before} == {label for _, label in keys(data.validation)} == set(range(10))
    aligned = data.aligned(list("9876543210"))
    assert keys(aligned.stream) == [(view, 9 - label) for view, label in before]
    assert keys(aligned.aligned(data.label_names).stream) == keys(data.stream) == before


def test_a_training_reads_the_stream_anew_each_epoch(folder, tmp_path):
    data = streamed(folder, augmentation="light")
    loaded = student(data)
    data = data.augmented("light", loaded.processor)
    assert data.stream.augment is not None
    context = Context(data, loaded.processor, None, 0, tmp_path, log=lambda line: None)
    before = loaded.model.classifier[-1].weight.clone()
    details = train(loaded.model, context, TrainingConfig(epochs=2))
    assert len(details["epochs"]) == 2
    assert data.stream.epoch == 1
    assert not torch.equal(before, loaded.model.classifier[-1].weight)


def test_an_interrupted_epoch_reads_the_same_images_again(folder, tmp_path):
    def weights(place, log):
        data = streamed(folder, augmentation="light", mixup=0.5)
        loaded = student(data)
        data = data.augmented("light", loaded.processor)
        set_seed(0)
        context = Context(data, loaded.processor, None, 0, tmp_path / place, log=log, resumable=True)
        train(loaded.model, context, TrainingConfig(epochs=2, learning_rate=1e-3))
        return loaded.model.state_dict()

    def fail_in_epoch_2(line):
        if "epoch 2 of 2" in line:
            raise InterruptedError

    whole = weights("whole", log=lambda line: None)
    with pytest.raises(InterruptedError):
        weights("resumed", log=fail_in_epoch_2)
    resumed = weights("resumed", log=lambda line: None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_streams(folder, tmp_path):
    from hf_compress import compress

    training = {"epochs": 1, "learning_rate": 3e-3}
    recipe = {
        "student": TINY,
        "data": {"path": str(folder), "streaming": True, "train_images": TRAIN},
        "steps": [{"finetune": training}, {"prune": {"amount": 0.3, "iterative": False, "recovery": training}}],
        "measure": {"batch_size": 2, "repeats": 3},
    }
    run = compress(Recipe.from_dict(recipe), tmp_path / "run", log=lambda line: None)
    assert run.report["data"]["splits"]["train"]["images"] == TRAIN
    assert run.report["rows"][-1]["cost"]["parameters"] < run.report["rows"][0]["cost"]["parameters"]
    assert "not counted" in (run.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"splits": {"validation": 0.1}}, "a stream cannot be divided"),
        ({"splits": {"train": "train[:50]"}}, "a stream cannot be divided"),
        ({"views": 2, "augmentation": "light"}, "their views do not repeat"),
        ({"labelled": 0.5}, "a stream cannot be mixed or divided"),
        ({"unlabelled": ["elsewhere"]}, "a stream cannot be mixed or divided"),
        ({"path": "digits"}, "digits are in memory"),
        ({"streaming": False}, "train_images is for a stream"),
    ],
)
def test_a_recipe_that_a_stream_cannot_do_is_refused(folder, options, said):
    data = {"path": str(folder), "streaming": True, "train_images": TRAIN} | options
    with pytest.raises(UsageError, match=said):
        Recipe.from_dict({"student": TINY, "data": data, "steps": ["finetune"]})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"splits": {"validation": "held_out"}}, "'data.splits.validation' names the split 'held_out'"),
        ({"workers": 4}, "'data.workers' is 4"),
    ],
)
def test_data_that_does_not_fit_is_refused(folder, options, said):
    with pytest.raises(UsageError, match=said):
        streamed(folder, **options)


def test_a_folder_does_not_say_how_many_images_it_has(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="how many make an epoch"):
        streamed(tmp_path, train_images=None)


def test_a_stream_without_held_out_images_is_refused(folder, tmp_path):
    (tmp_path / "train.parquet").write_bytes((folder / "train-0.parquet").read_bytes())
    with pytest.raises(UsageError, match="no split for validation"):
        streamed(tmp_path)


def generated(count, corrupt=(), missing=()):
    """Pictures of 16 kB each, of which no two are the same object."""
    encoded = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(encoded, "JPEG")
    for number in range(count):
        picture = encoded.getvalue() + number.to_bytes(8, "big") * 2048
        stored = {"bytes": b"no picture" if number in corrupt else picture, "path": None}
        yield {"image": None if number in missing else stored, "label": number % 10}


def stream_of(count, **options):
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    bad = {name: options.pop(name, ()) for name in ("corrupt", "missing")}
    rows = datasets.IterableDataset.from_generator(generated, features=features, gen_kwargs={"count": count} | bad)
    return ImageStream(rows, "image", "label", count, **options)


def test_corrupt_images_are_skipped_or_stop_the_run(caplog):
    stream = stream_of(20, corrupt=(3, 15))
    stream.length = 18
    assert sorted(item["label"] for item in stream) == sorted(n % 10 for n in range(20) if n not in (3, 15))
    assert sum("the first is a picture" in record.message for record in caplog.records) == 1
    with pytest.raises(RunError, match="has a corrupt one"):
        list(stream_of(20, corrupt=(3,), on_corrupt="stop"))
    with pytest.raises(RunError, match="none that can be decoded"):
        list(stream_of(1, corrupt=(0,)))


def test_rows_without_a_picture_are_corrupt_ones(folder, tmp_path, caplog):
    stream = stream_of(20, missing=(3,))
    stream.length = 19
    assert sorted(item["label"] for item in stream) == sorted(n % 10 for n in range(20) if n != 3)
    assert "has corrupt ones" in caplog.text
    shutil.copytree(folder, tmp_path / "data")
    rows = datasets.load_dataset("parquet", data_files=str(folder / "test.parquet"))["train"]
    pictures = [None, *rows["image"][1:]]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": rows["label"]}, features=rows.features)
    rows.to_parquet(tmp_path / "data" / "test.parquet")
    data = streamed(tmp_path / "data")
    assert len(data.test) == 39 and data.facts["splits"]["test"]["corrupt_images_skipped"] == 1


def test_memory_does_not_grow_with_the_stream():
    """4,000 pictures of 16 kB would be 64 MB."""
    process, sizes = psutil.Process(), []
    for number, _ in enumerate(stream_of(7_000)):
        if number in (3_000, 6_999):
            sizes.append(process.memory_info().rss / 2**20)
    assert sizes[1] - sizes[0] < 20

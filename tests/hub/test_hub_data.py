"""Data sets of the Hub whose files say different things: lists of classes, and archives with words of splits."""

import io
import json
import zipfile

import datasets
import pytest
from hub_client import ALICE
from PIL import Image

PARQUET = {  # names and labels of each file
    "data/train-00000-of-00002.parquet": (["cat", "dog", "owl"], [0, 1, 2] * 8),
    "data/train-00001-of-00002.parquet": (["owl", "cat", "dog"], [0, 1, 2] * 8),
    "data/validation-00000-of-00001.parquet": (["cat", "dog", "owl"], [1, 1, 2]),
    "data/test-00000-of-00001.parquet": (["dog", "owl", "cat"], [0, 1, 2]),
}


def parquet(start, names, labels, size=4):
    columns = {"image": [Image.effect_noise((size, size), 90 + start + n) for n in range(len(labels))]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    file = io.BytesIO()
    datasets.Dataset.from_dict(columns | {"label": labels}, features=features).to_parquet(file)
    return file.getvalue()


def archive(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for number, member in enumerate(members):
            picture = io.BytesIO()
            Image.new("L", (4, 4), len(members) * 10 + number).save(picture, "PNG")
            packed.writestr(member, picture.getvalue())
    return file.getvalue()


def load(target, options, offline) -> None:
    """Write the labels by split, or the sentence of a refusal."""
    import huggingface_hub

    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = offline
    from hf_compress.data import load_data
    from hf_compress.ground.errors import UsageError
    from hf_compress.sections.data import DataSection

    try:
        data = load_data(DataSection(**options), seed=0)
    except UsageError as error:
        target.write_text(json.dumps(str(error)))
        return
    names = data.label_names
    labels = {role: [names[n] if names else n for n in images.labels] for role, images in data.splits.items()}
    target.write_text(json.dumps(labels))


def loaded(client, path, *, offline=False, **options):
    target = client.folder / "loaded.json"
    target.unlink(missing_ok=True)
    result = client.call(load, target, {"path": path} | options, offline, HF_TOKEN=ALICE)
    assert result.code == 0, result.err
    return json.loads(target.read_text())


@pytest.fixture(scope="module")
def pets(hub):
    """Files with different lists of classes, in a repository with a card."""
    files = {name: parquet(100 * number, *held) for number, (name, held) in enumerate(PARQUET.items())}
    hub.add("alice/pets", files | {"README.md": b"# Pets\n"}, kind="dataset")


def test_lists_of_classes_of_files_are_matched_by_name(client, pets):
    found = loaded(client, "alice/pets")
    assert found["test"] == ["dog", "owl", "cat"]
    assert found["validation"] == ["dog", "dog", "owl"]
    assert found["train"] == ["cat", "dog", "owl"] * 8 + ["owl", "cat", "dog"] * 8
    said = "the parquet files of split 'train' have different lists of class names in column 'label': write them"
    assert loaded(client, "alice/pets", offline=True).startswith(said)


def test_a_class_that_the_first_file_does_not_name_is_refused(hub, client):
    names = {"train": ["cat", "dog"], "test": ["cat", "owl"]}
    files = {f"data/{s}-00000-of-00001.parquet": parquet(0, held, [0, 1] * 12) for s, held in names.items()}
    hub.add("alice/owls", files, kind="dataset")
    said = "'test-00000-of-00001.parquet' names the class 'owl' in column 'label', which is none of split 'train'"
    assert loaded(client, "alice/owls").startswith(said)


def test_a_stream_of_files_with_different_lists_is_refused(client, pets):
    said = loaded(client, "alice/pets", streaming=True, train_images=10)
    assert said.startswith("'data.label_column': the files of alice/pets have different lists of class names")


@pytest.mark.long
def test_of_files_that_are_streamed_only_the_footers_of_the_used_ones_are_read(hub, client):
    """Files of 20 MB in all, of which one that is not used has another list."""
    names = {split: ["cat", "dog"] for split in ("train", "validation", "test")} | {"extra": ["dog", "cat"]}
    files = {f"data/{s}-00000-of-00001.parquet": parquet(0, held, [0, 1], size=1600) for s, held in names.items()}
    assert sum(map(len, files.values())) > 15e6
    hub.add("alice/large", files, kind="dataset")
    hub.requests.clear()
    found = client.call(footers, client.folder / "footers.json", HF_TOKEN=ALICE)
    assert found.code == 0, found.err
    assert json.loads((client.folder / "footers.json").read_text()) == [2, 2, 2, 2]
    assert loaded(client, "alice/large", streaming=True, train_images=2)["test"] == ["cat", "dog"]


def footers(target) -> None:
    """Look at the lists of a stream, and count the bytes that are fetched."""
    from huggingface_hub.hf_file_system import HfFileSystemFile

    from hf_compress.data.label_columns import unequal_files
    from hf_compress.data.sources import load_raw
    from hf_compress.sections.data import DataSection

    source = load_raw(DataSection(path="alice/large", streaming=True, train_images=2), "data", streaming=True)
    fetched, fetch = [], HfFileSystemFile._fetch_range
    HfFileSystemFile._fetch_range = lambda file, start, end: fetched.append(end - start) or fetch(file, start, end)
    found = unequal_files(source.files, "label", "image", "alice/large")
    assert 0 < sum(fetched) < 1e6, fetched
    target.write_text(json.dumps([rows for own in found.values() for rows, _ in own.values()]))


FLAT = tuple(f"{number}.png" for number in range(20))
CLASSES = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
NO_CLASSES = "the folders in archives ('cat', 'dog') do not become classes: load an unpacked copy from a folder"
ARCHIVES = {
    "splits": ({"train.zip": FLAT, "test.zip": FLAT[:2]}, 2),
    "one that has no split": ({"train.zip": FLAT, "more.zip": FLAT}, "'more.zip' beside the splits 'train' names no"),
    "words of two splits": (
        {"train.zip": FLAT, "train_test.zip": FLAT},
        "the name of 'train_test.zip' has words of several splits",
    ),
    "another split": (
        {"train.zip": FLAT, "eval.zip": FLAT},
        "'eval.zip' belongs to the split 'validation', but `datasets` takes it for the split 'test': say in the",
    ),
    "a picture beside": (
        {"train.zip": FLAT, "train/figure.png": None},
        "pictures such as 'train/figure.png' lie beside files of many pictures: say in the 'configs'",
    ),
    "classes": ({"train.zip": CLASSES, "test.zip": CLASSES}, NO_CLASSES),
    "a folder called as one of its classes": ({"cat/photos.zip": CLASSES}, NO_CLASSES),
    "mixed depths": ({"photos.zip": (*CLASSES, "stray.png")}, "the folders in archives ('', 'cat', 'dog') do not"),
    "a folder in each archive": ({"train.zip": ["a/1.png"], "test.zip": ["b/1.png"]}, "('a', 'b') do not become"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_are_read_as_their_names_say_or_refused(case, streaming, hub, client):
    held, expected = ARCHIVES[case]
    files = {name: archive(*(members or FLAT[:1])) for name, members in held.items()}
    if "train/figure.png" in files:
        files["train/figure.png"] = zipfile.ZipFile(io.BytesIO(files["train/figure.png"])).read(FLAT[0])
    path = f"alice/zip-{case.replace(' ', '-')}"
    hub.add(path, files, kind="dataset")
    stream = {"streaming": True, "train_images": 20, "splits": {"validation": "test"}} if streaming else {}
    found = loaded(client, path, **stream)
    if streaming and isinstance(expected, int):
        expected = "pictures in archives are not streamed: leave out 'data.streaming'"
    if isinstance(expected, int):
        assert found["test"] == [-100] * expected
    else:
        assert expected in found


def test_archives_that_a_card_assigns_are_read_as_it_says(hub, client):
    card = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: eval.zip\n"
    card += b"  - split: test\n    path: more.zip\n---\n"
    files = {"eval.zip": archive(*FLAT), "more.zip": archive(*FLAT[:3])}
    hub.add("alice/assigned", files | {"README.md": card}, kind="dataset")
    assert loaded(client, "alice/assigned")["test"] == [-100] * 3

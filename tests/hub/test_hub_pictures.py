"""Data sets of the Hub that are plain folders of pictures, or are loaded by a script."""

import io
import json

import pytest
from hub_client import ALICE
from PIL import Image


def pictures(*folders):
    files = {}
    for folder in folders:
        for number in range(2):
            file = io.BytesIO()
            Image.new("RGB", (2, 2), (len(files), 0, 0)).save(file, "PNG")
            files[f"{folder}/{number}.png"] = file.getvalue()
    return files


def load(path: str, target, streaming: bool) -> None:
    """Write what is found, or the sentence of a refusal."""
    from hf_compress.data.sources import load_raw
    from hf_compress.ground.errors import UsageError
    from hf_compress.sections.data import DataSection

    try:
        source = load_raw(DataSection(path=path), "data", streaming)
    except UsageError as error:
        target.write_text(json.dumps(str(error)))
        return
    counts = {}
    for split, part in source.rows.items():
        named = getattr(part.features["label"], "names", None)
        names = [named[row["label"]] if named else row["label"] for row in part]
        counts[split] = {name: names.count(name) for name in sorted(set(names))}
    left = [[item.reason, item.count] for item in source.left_out]
    target.write_text(json.dumps([counts, source.commit, left]))


def loaded(client, path, streaming=False, **environment):
    target = client.folder / "loaded.json"
    target.unlink(missing_ok=True)
    result = client.call(load, path, target, streaming, HF_TOKEN=ALICE, **environment)
    assert result.code == 0, result.err
    return json.loads(target.read_text())


@pytest.mark.long
def test_the_splits_of_plain_pictures_are_those_of_the_top_level(hub, client):
    files = pictures(*(f"{split}/{name}" for split in ("train", "test") for name in ("bus", "car", "train")))
    repo = hub.add("alice/photos", files | {"README.md": b"# Photos\n"}, kind="dataset")
    each = {"bus": 2, "car": 2, "train": 2}
    expected = [{"train": each, "test": each}, repo.resolve("main").oid, [["files that hold no pictures (.md)", 1]]]
    assert loaded(client, "alice/photos") == expected
    assert loaded(client, "alice/photos", HF_HUB_OFFLINE="1") == expected
    assert loaded(client, "alice/photos", True, HF_HUB_OFFLINE="1") == expected


STREAMED = {
    "words of splits in classes": pictures("train/bus", "train/train", "test/bus", "test/train"),
    "without splits": pictures("airport", "bus_station", "train_station"),
    "a class of files without ending": pictures("a") | {"b/0": pictures("b/b", "b")["b/0.png"]},
    "a script beside": pictures("train/a", "train/b", "test/a", "test/b") | {"prepare.py": b"raise SystemExit"},
    "what is not clear": pictures("train/a", "train/b", "holdout/a", "holdout/b"),
    "a metadata file": pictures("train/a", "test/a")
    | {f"{split}/metadata.csv": b"file_name,label\na/0.png,cat\na/1.png,dog\n" for split in ("train", "test")},
    "hidden files and files without a picture": pictures("cat", "dog", "cat/.hidden") | {"LICENSE": b"none"},
}


@pytest.mark.parametrize("case", STREAMED)
def test_a_stream_has_the_splits_and_classes_of_what_is_downloaded(case, hub, client):
    path = f"alice/streamed-{case.replace(' ', '-')}"
    repo = hub.add(path, STREAMED[case], kind="dataset")
    hub.requests.clear()
    streamed = loaded(client, path, streaming=True)
    assert hub.count("GET .*png") == 0
    assert streamed == loaded(client, path)
    if case != "what is not clear":
        assert streamed[1] == repo.resolve("main").oid


def test_pictures_of_a_stream_are_read_from_the_hub(hub, client):
    hub.add(
        "alice/read", pictures(*(f"{s}/{c}" for s in ("train", "validation", "test") for c in "ab")), kind="dataset"
    )
    result = client.call(read, "alice/read", client.folder / "read.json", HF_TOKEN=ALICE)
    assert result.code == 0, result.err
    assert json.loads((client.folder / "read.json").read_text()) == [[0, 0], [1, 0], [2, 1], [3, 1]]


def read(path: str, target) -> None:
    """Write the first byte and the label of all training images."""
    from hf_compress.data import load_data
    from hf_compress.sections.data import DataSection

    data = load_data(DataSection(path=path, streaming=True), seed=0)
    target.write_text(json.dumps(sorted([int(item["view"].ravel()[0]), item["label"]] for item in data.stream)))


def test_what_is_not_clear_is_refused_as_in_a_folder(hub, client):
    hub.add("alice/unclear", pictures("train/a", "train/b", "holdout/a", "holdout/b"), kind="dataset")
    said = loaded(client, "alice/unclear")
    assert said.startswith("'data.path': in 'alice/unclear', 'holdout' lies beside the splits 'train'")


def test_a_loading_script_is_one_sentence(hub, client):
    hub.add("alice/scripted", {"scripted.py": b"raise SystemExit"}, kind="dataset")
    said = loaded(client, "alice/scripted")
    assert said.startswith("'data.path': alice/scripted cannot be loaded: Dataset scripts are no longer supported")
    assert said.endswith("; look for a copy of the data in parquet files")

"""Data sets of the Hub that are plain folders of pictures, or are loaded by a script."""

import io
import json

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


def load(path: str, target) -> None:
    """Write what is found, or the sentence of a refusal."""
    from hf_compress.data.sources import load_raw
    from hf_compress.errors import UsageError
    from hf_compress.sections import DataSection

    try:
        source = load_raw(DataSection(path=path), "data")
    except UsageError as error:
        target.write_text(json.dumps(str(error)))
        return
    counts = {}
    for split, part in source.rows.items():
        names = [part.features["label"].names[label] for label in part["label"]]
        counts[split] = {name: names.count(name) for name in sorted(set(names))}
    left = [[item.reason, item.count] for item in source.left_out]
    target.write_text(json.dumps([counts, source.commit, left]))


def loaded(client, path, **environment):
    target = client.folder / "loaded.json"
    target.unlink(missing_ok=True)
    result = client.call(load, path, target, HF_TOKEN=ALICE, **environment)
    assert result.code == 0, result.err
    return json.loads(target.read_text())


def test_the_splits_of_plain_pictures_are_those_of_the_top_level(hub, client):
    files = pictures(*(f"{split}/{name}" for split in ("train", "test") for name in ("bus", "car", "train")))
    repo = hub.add("alice/photos", files | {"README.md": b"# Photos\n"}, kind="dataset")
    each = {"bus": 2, "car": 2, "train": 2}
    expected = [{"train": each, "test": each}, repo.resolve("main").oid, [["files that hold no pictures (.md)", 1]]]
    assert loaded(client, "alice/photos") == expected
    assert loaded(client, "alice/photos", HF_HUB_OFFLINE="1") == expected


def test_what_is_not_clear_is_refused_as_in_a_folder(hub, client):
    hub.add("alice/unclear", pictures("train/a", "train/b", "holdout/a", "holdout/b"), kind="dataset")
    said = loaded(client, "alice/unclear")
    assert said.startswith("'data.path': in 'alice/unclear', 'holdout' lies beside the splits 'train'")


def test_a_loading_script_is_one_sentence(hub, client):
    hub.add("alice/scripted", {"scripted.py": b"raise SystemExit"}, kind="dataset")
    said = loaded(client, "alice/scripted")
    assert said.startswith("'data.path': alice/scripted cannot be loaded: Dataset scripts are no longer supported")
    assert said.endswith("; look for a copy of the data in parquet files")

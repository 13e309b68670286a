"""Folders as users have them: which splits, classes and pictures are found, what is left out, or why it is refused."""

import gzip
import io
import os
import socket
import tarfile
import zipfile

import datasets
import pytest
from PIL import Image

from hf_compress.data.sources import load_raw
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection, UnlabelledSection


def picture(number, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (number % 256, number // 256, 7)).save(file, kind)
    return file.getvalue()


def write(root, files):
    """Write `{path: content}`: bytes or text, a link's target after `->`, or that many pictures in a folder."""
    number = 0
    for name, content in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            place.mkdir(exist_ok=True)
            for _ in range(content):
                number += 1
                (place / f"{number}.png").write_bytes(picture(number))
        elif isinstance(content, bytes):
            place.write_bytes(content)
        elif content.startswith("->"):
            place.symlink_to(content[2:].strip())
        else:
            place.write_text(content)


def pictures(folder, *names, kind="PNG"):
    return {os.path.join(folder, name): picture(index, kind) for index, name in enumerate(names)}


def found(rows):
    """Return `{split: {class: count}}`, or `{split: count}` where there are no classes."""
    result = {}
    for split, part in rows.items():
        names = part.features["label"].names if "label" in part.features else None
        labels = part["label"] if names else []
        counts = {} if names else len(part)
        for label in labels:
            name = None if label is None else names[label]
            counts[name] = counts.get(name, 0) + 1
        result[split] = counts
    return result


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, picture(1))
    return file.getvalue()


def tarred(*names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, name in enumerate(names):
            content = picture(number) if name.endswith(".png") else b"1"
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


TWO = {"cat": 2, "dog": 3}
CATS_AND_DOGS = {"train": {"cat": 2, "dog": 3}}
FLAT = {"": 4}
RIGHT = {
    "classes": (TWO, CATS_AND_DOGS),
    "no classes": (FLAT, {"train": 4}),
    "splits and classes": (
        {"train/cat": 2, "train/dog": 3, "test/cat": 1, "test/dog": 1},
        {"train": {"cat": 2, "dog": 3}, "test": {"cat": 1, "dog": 1}},
    ),
    "classes called like splits, in splits": (
        {f"{split}/{name}": 2 for split in ("train", "test") for name in ("bus", "car", "train")},
        {split: {"bus": 2, "car": 2, "train": 2} for split in ("train", "test")},
    ),
    "classes that are all called like splits": (
        {f"{split}/{name}": 2 for split in ("train", "test") for name in ("medium", "test", "dev")},
        {split: {"medium": 2, "test": 2, "dev": 2} for split in ("train", "test")},
    ),
    "Training and Testing": (
        {"Training/a": 2, "Training/b": 2, "Testing/a": 1, "Testing/b": 1},
        {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}},
    ),
    "every name of a split": (
        {"TRAIN/a": 1, "TRAIN/b": 1, "Eval/a": 1, "Eval/b": 1, "testing/a": 1, "testing/b": 1},
        {split: {"a": 1, "b": 1} for split in ("train", "validation", "test")},
    ),
    "test alone": ({"test/a": 1, "test/b": 1}, {"test": {"a": 1, "b": 1}}),
    "val alone": ({"val/a": 1, "val/b": 1}, {"validation": {"a": 1, "b": 1}}),
    "splits without classes": ({"train": 3, "valid": 2}, {"train": 3, "validation": 2}),
    "held-out pictures without classes": (
        {"train/a": 2, "train/b": 2, "test": 3},
        {"train": {"a": 2, "b": 2}, "test": {None: 3}},
    ),
    "a class in one split only": (
        {"train/a": 2, "train/b": 2, "test/b": 1},
        {"train": {"a": 2, "b": 2}, "test": {"b": 1}},
    ),
    "a class called train": ({"bus": 2, "car": 2, "train": 2}, {"train": {"bus": 2, "car": 2, "train": 2}}),
    "a class called eval": ({"cat": 2, "dog": 2, "eval": 2}, {"train": {"cat": 2, "dog": 2, "eval": 2}}),
    "a class called test tube": (
        {"beaker": 2, "flask": 2, "test tube": 2},
        {"train": {"beaker": 2, "flask": 2, "test tube": 2}},
    ),
    "classes with words of splits": (
        {name: 2 for name in ("airport", "bus_station", "train_station", "train_interior")},
        {"train": {name: 2 for name in ("airport", "bus_station", "train_station", "train_interior")}},
    ),
    "names of files": (
        pictures("cat", "train_0.png", "1_val_2.png", "test.png") | pictures("dog", "train.png", "dev-0.png"),
        {"train": {"cat": 3, "dog": 2}},
    ),
    "files called like a class": (
        {"cat": 1, "dog/cat": picture(9), "dog/x.png": picture(8)},
        {"train": {"cat": 1, "dog": 2}},
    ),
    "a folder around classes": ({"photos/cat": 2, "photos/dog": 3}, CATS_AND_DOGS),
    "two folders around splits": (
        {"x/y/train/a": 2, "x/y/train/b": 1, "x/y/val/a": 1, "x/y/val/b": 1},
        {"train": {"a": 2, "b": 1}, "validation": {"a": 1, "b": 1}},
    ),
    "nested classes": (
        {"Apple/healthy": 1, "Apple/scab": 2, "Grape/healthy": 3, "Grape/rot": 4},
        {"train": {"Apple/healthy": 1, "Apple/scab": 2, "Grape/healthy": 3, "Grape/rot": 4}},
    ),
    "nested classes with other names": (
        {"fruit/apple": 1, "fruit/pear": 2, "nuts/hazel": 3},
        {"train": {"apple": 1, "pear": 2, "hazel": 3}},
    ),
    "nested classes in splits": (
        {"train/A/x": 1, "train/B/x": 2, "test/A/x": 1, "test/B/x": 1},
        {"train": {"A/x": 1, "B/x": 2}, "test": {"A/x": 1, "B/x": 1}},
    ),
    "names with signs of globs": ({"a[1]": 2, "b*?": 2, "{c}": 1}, {"train": {"a[1]": 2, "b*?": 2, "{c}": 1}}),
    "names with hops of fsspec": ({"a::b": 2, "zip:c": 2}, {"train": {"a::b": 2, "zip:c": 2}}),
    "other case and endings": (
        pictures("a", "1.PNG", "2.Jpg", "3.jpeg") | pictures("b", "1.jfif", "2.webp", "3.avif"),
        {"train": {"a": 3, "b": 3}},
    ),
    "a class of AVIF": (
        {"cat": 2} | pictures("dog", "1.avif", "2.avif", kind="AVIF"),
        {"train": {"cat": 2, "dog": 2}},
    ),
    "files without ending": ({"cat": 2} | pictures("dog", "a", "b"), {"train": {"cat": 2, "dog": 2}}),
    "endings that are none": (pictures("v1.0", "a.b.png") | {"v1.1": 1}, {"train": {"v1.0": 1, "v1.1": 1}}),
    "a link to a class": (
        {"cat": 2, ".elsewhere/dogs": 3, "dog": "-> .elsewhere/dogs"},
        CATS_AND_DOGS,
        {"hidden": 3},
    ),
    "links in circles": (
        TWO | {"cat/up": "-> ..", "dog/self": "-> .", "dog/me": "-> me"},
        CATS_AND_DOGS,
        {"circle": 2, "nowhere": 1},
    ),
    "a link to nothing": (TWO | {"cat/gone.png": "-> gone"}, CATS_AND_DOGS, {"nowhere": 1}),
    "a device": (TWO | {"cat/zero.png": "-> /dev/zero"}, CATS_AND_DOGS, {"devices": 1}),
    "hidden and system files": (
        TWO
        | {".DS_Store": "", "cat/Thumbs.db": "", "__MACOSX/cat/._1.png": "", ".git/x": "", "dog/.1.png": picture(1)},
        CATS_AND_DOGS,
        {"hidden": 5},
    ),
    "other files": (
        TWO | {"README.md": "", "cat/notes.txt": "", "labels.csv": "a,b", "cat/0/x.log": "", "Makefile": "all:"},
        CATS_AND_DOGS,
        {".md": 1, ".txt": 1, ".csv": 1, ".log": 1, "without ending": 1},
    ),
    "boxes beside classes": (
        TWO | {"cat/1.txt": "0 1 1 1 1", "cat/2.json": "{}"},
        CATS_AND_DOGS,
        {".txt": 1, ".json": 1},
    ),
    "archives beside classes": (
        TWO | {"photos.zip": zipped("cat/1.png"), "cat/more.tar": tarred("9.png"), "x.tar.gz": b""},
        CATS_AND_DOGS,
        {"unpacked (.zip)": 1, "unpacked (.tar)": 2},
    ),
    "some HEIC": (
        {"cat": 2, "dog": 2} | {f"dog/x{n}.HEIC": "" for n in range(8)},
        {"train": {"cat": 2, "dog": 2}},
        {"heif": 8},
    ),
    "formats that Pillow only recognises": (
        TWO | {"cat/x.h5": "", "cat/x.mpeg": ""},
        CATS_AND_DOGS,
        {".h5": 1, ".mpeg": 1},
    ),
    "an empty folder in a class": (TWO | {"cat/raw": 0}, CATS_AND_DOGS),
    "an empty folder beside splits": ({"train/a": 1, "train/b": 1, "docs": 0}, {"train": {"a": 1, "b": 1}}),
    "notes beside splits": ({"train/a": 1, "train/b": 1, "docs/x.md": ""}, {"train": {"a": 1, "b": 1}}, {".md": 1}),
    "an empty folder beside pictures": (FLAT | {"raw": 0}, {"train": 4}),
    "the same picture twice": (
        {"cat/1.png": picture(1), "cat/2.png": picture(1), "dog/1.png": picture(2)},
        {"train": {"cat": 2, "dog": 1}},
    ),
    "no picture inside": (TWO | {"cat/bad.png": "text"}, {"train": {"cat": 3, "dog": 3}}),
    "a script beside classes": (TWO | {"photos.py": "raise SystemExit"}, CATS_AND_DOGS, {".py": 1}),
}
WRONG = {
    "nothing": ({}, "no images"),
    "hidden pictures alone": ({".x/1.png": picture(1)}, "no images"),
    "folders beside splits": (
        {"train/a": 1, "train/b": 1, "holdout/a": 1, "holdout/b": 1},
        "'holdout' lies .*'data.splits'",
    ),
    "a folder beside a whole division": (
        {"train": 2, "test": 2, "extra": 2},
        "'extra' lies beside .* 'test', 'train'",
    ),
    "train and one other": ({"train": 2, "bus": 2}, "'bus' lies beside the splits 'train'"),
    "train and test1": ({"train": 2, "test1": 2}, "'test1' lies beside the splits 'train'"),
    "test and test1": ({"test": 2, "test1": 2, "test2": 2}, "'test1', 'test2' lie beside the splits 'test'"),
    "nearly splits": (
        {f"seg_{split}/{name}": 1 for split in ("train", "test") for name in "ab"},
        "'seg_test', 'seg_train' seem to be splits",
    ),
    "one split twice": (
        {"val/a": 1, "val/b": 1, "dev/a": 1, "dev/b": 1},
        "'dev', 'val' are all the split 'validation'",
    ),
    "an empty split": ({"train/a": 1, "train/b": 1, "val": 0}, "split folder 'val' is empty"),
    "a split of other files": (
        {"train/a": 1, "train/b": 1, "val/x.txt": ""},
        "split folder 'val' holds no picture.*txt",
    ),
    "stray pictures": (TWO | {"": 1}, r"'6.png' \(1 in all\) lie beside the class folders 'cat', 'dog': move"),
    "stray pictures in a split": (
        {"train/a": 1, "train/b": 1, "train/x.png": picture(1)},
        "'train/x.png' .*beside the class folders 'a', 'b'",
    ),
    "stray pictures beside splits": ({"train/a": 1, "train/b": 1, "x.png": picture(1)}, "'x.png'"),
    "originals in a class": (TWO | {"cat/originals": 2}, "different depths: 'cat/originals'"),
    "mixed depth": ({"a/x": 2, "a/y": 2, "b": 1}, "different depths: 'b'"),
    "splits of different depth": (
        {"train/a": 1, "train/b": 1, "test/x/a": 1, "test/x/b": 1},
        "arrange all splits alike",
    ),
    "train without classes": ({"train": 2, "test/a": 1, "test/b": 1}, "'train' has no class folders"),
    "an empty class": (TWO | {"owl": 0}, "class folder 'owl' is empty: add images or remove"),
    "a class of hidden files": (TWO | {"owl/.keep": ""}, "class folder 'owl' is empty"),
    "an empty class in a split": ({"train/a": 1, "train/b": 1, "train/c": 0}, "class folder 'train/c' is empty"),
    "a class of HEIC": (
        TWO | {"owl/1.heic": "", "owl/2.heic": ""},
        "'owl' holds no .*2 pictures.*install pillow-heif",
    ),
    "all HEIC": ({"cat/1.heic": "", "dog/1.heic": ""}, "no picture that can be read.*install pillow-heif"),
    "a class of raw pictures": (TWO | {"owl/1.nef": ""}, "'owl' holds .*convert them to JPEG or PNG"),
    "a class of strange endings": (TWO | {"owl/1.jpg_large": ""}, "'owl' holds .*jpg_large"),
    "a class of text without ending": (TWO | {"owl/1": "text"}, "'owl' holds .*without ending"),
    "a class of devices": (TWO | {"owl/1.png": "-> /dev/null"}, "'owl' holds .*devices"),
    "a class of links to nothing": (
        TWO | {"owl": "-> nowhere/owls", "uhu/1.png": "-> nowhere"},
        "'uhu' holds .*nowhere",
    ),
    "a folder of boxes": (TWO | {"labels/1.txt": ""}, "'labels' holds no picture"),
    "one class": ({"cat": 3}, "one class folder only, 'cat'"),
    "one class in splits": ({"train/cat": 3, "test/cat": 1}, "one class folder only, 'cat'"),
    "boxes of YOLO": (
        pictures("x", "1.png", "2.png") | {"x/1.txt": "", "x/2.txt": ""},
        "a file each such as 'x/1.txt'",
    ),
    "YOLO's splits": (
        {
            f"{kind}/{split}/{split}.{end}": picture(1)
            for kind, end in (("images", "png"), ("labels", "txt"))
            for split in ("train", "val")
        },
        "a file each such as 'labels/train/train.txt'",
    ),
    "boxes of LabelMe": (
        pictures("", "1.png") | {"1.json": "{}"},
        "which tells what they show, and is not read: sort the",
    ),
    "annotations of COCO": (
        FLAT | {"annotations/instances.json": "{}"},
        "annotations in 'annotations/instances.json'",
    ),
    "a table of Kaggle": ({"images": 3, "train.csv": "id,label"}, "'train.csv': save it as metadata.csv"),
    "a table of Kaggle and splits": (
        {"train": 3, "test": 2, "labels.csv": "id,label"},
        "of each split .'test', 'train'.",
    ),
    "zip archives alone": ({"train.zip": zipped("a/1.png")}, "'train.zip': unpack them"),
    "a tar archive of folders": ({"x.tar": tarred("a/1.png", "b/2.png")}, "'x.tar': unpack them"),
    "a script alone": ({"photos.py": "raise SystemExit"}, "'photos.py': a script"),
    "metadata without labels": (
        TWO | {"metadata.csv": "file_name\ncat/1.png\n"},
        "no column label, and hides .*'cat', 'dog'",
    ),
    "metadata with another column": (
        pictures("", "1.png") | {"metadata.csv": "file_name,kind\n1.png,cat\n"},
        "no column label, but 'kind'",
    ),
    "metadata above splits": (
        {"train": 1, "test": 1, "metadata.csv": "file_name,label\ntrain/1.png,a\n"},
        "lies above the splits",
    ),
    "metadata of the test split alone": (
        {"train": 1, "test": 1, "test/metadata.csv": "file_name,label\n2.png,a\n"},
        "'train' has no metadata file",
    ),
}


def load(path, **options):
    return load_raw(DataSection(path=str(path), **options), "data")


def counts(left_out):
    return {item.reason: item.count for item in left_out}


@pytest.mark.parametrize("case", RIGHT)
def test_a_folder_is_read_as_a_user_means_it(case, tmp_path):
    files, expected, *left = RIGHT[case]
    root = tmp_path / "photos[1]"
    root.mkdir()
    write(root, files)
    source = load(root)
    assert found(source.rows) == expected
    said = counts(source.left_out)
    assert len(said) == len(left[0] if left else {}), said
    for words, count in (left[0] if left else {}).items():
        assert [number for reason, number in said.items() if words in reason] == [count], said
    for part in source.rows.values():
        paths = [item["path"] for item in part.cast_column("image", datasets.Image(decode=False))["image"]]
        assert paths == sorted(paths, key=lambda path: path.split("/"))


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_would_lose_something_is_refused(case, tmp_path):
    files, says = WRONG[case]
    (tmp_path / "photos").mkdir()
    write(tmp_path / "photos", files)
    with pytest.raises(UsageError, match=says) as caught:
        load(tmp_path / "photos")
    assert str(caught.value).startswith("'data.path': in ")


def test_files_that_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    write(tmp_path, TWO)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)
        listening.bind("dog/socket.png")
    (tmp_path / "cat" / "secret.png").write_bytes(picture(9))
    os.close(os.open(os.fsencode(tmp_path) + b"/cat/\xff.png", os.O_CREAT))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and "secret" not in path)
    source = load(tmp_path)
    assert found(source.rows) == CATS_AND_DOGS
    left = {item.example: item.count for item in source.left_out}
    assert left == {"cat/pipe.png": 2, "cat/secret.png": 1, "cat/\\udcff.png": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path, TWO)
    (tmp_path / "cat").chmod(0)
    with pytest.raises(UsageError, match=r"'cat' cannot be read .Permission denied.: permit it"):
        load(tmp_path)
    (tmp_path / "cat").chmod(0o700)


def test_a_file_that_is_not_accounted_for_stops_the_load(tmp_path, monkeypatch):
    write(tmp_path, TWO | {"notes.txt": ""})
    monkeypatch.setattr(
        "hf_compress.data.folders.kind_of", lambda path: ("picture" if path.endswith("png") else "x", "")
    )
    with pytest.raises(RunError, match=r"of 6 files in .*, 5 are used and 0 left out"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "splits", "expected"),
    [
        (
            {"train/a": 2, "train/b": 2, "holdout/a": 1, "holdout/b": 1},
            {"test": "holdout"},
            {"holdout": {"a": 1, "b": 1}, "train": {"a": 2, "b": 2}},
        ),
        (
            {"seg_train/a": 2, "seg_train/b": 2, "seg_test/a": 1, "seg_test/b": 1},
            {"train": "seg_train", "test": "seg_test[:1]"},
            {"seg_test": {"a": 1, "b": 1}, "seg_train": {"a": 2, "b": 2}},
        ),
        (
            {"train": 2, "val": 1, "dev": 1},
            {"validation": "dev", "test": "val"},
            {"dev": 1, "train": 2, "val": 1},
        ),
        ({"bus": 2, "car": 2, "train": 2}, {"train": "train[:4]"}, {"train": {"bus": 2, "car": 2, "train": 2}}),
    ],
)
def test_a_recipe_may_name_folders_as_splits(files, splits, expected, tmp_path):
    write(tmp_path, files)
    assert found(load(tmp_path, splits=splits).rows) == expected


UNLABELLED = {
    "stray pictures": (TWO | {"": 1}, None, {"train": 6}),
    "mixed depth": (TWO | {"cat/originals": 2}, None, {"train": 7}),
    "one class": ({"cat": 3}, None, {"train": 3}),
    "captions": (pictures("", "1.png") | {"1.txt": "a cat"}, None, {"train": 1}),
    "an empty class": (TWO | {"owl": 0}, None, {"train": 5}),
    "splits": ({"train/a": 2, "test/a": 1}, "test", {"test": 1, "train": 2}),
    "folders beside splits": ({"train": 2, "extra": 3, "": 1}, "train", {"train": 2, "other": 4}),
    "splits that are not asked for": ({"train": 2, "extra": 3, "test/a": 1}, None, {"train": 6}),
    "a folder as split": ({"train": 2, "unlabeled": 3}, "unlabeled", {"train": 2, "unlabeled": 3}),
    "metadata without labels": (
        pictures("", "1.png", "2.png") | {"metadata.csv": "file_name,kind\n1.png,cat\n"},
        None,
        {"train": 1},
    ),
}


@pytest.mark.parametrize("case", UNLABELLED)
def test_pictures_without_labels_may_lie_anywhere(case, tmp_path):
    files, split, expected = UNLABELLED[case]
    write(tmp_path, files)
    source = load_raw(UnlabelledSection(path=str(tmp_path), split=split), "data.unlabelled.0")
    assert found(source.rows) == expected
    assert counts(source.left_out) == (
        {"pictures that no metadata file names": 1}
        if "metadata.csv" in files
        else {"files that hold no pictures (.txt)": 1}
        if "1.txt" in files
        else {}
    )


METADATA = {
    "beside the pictures": (
        pictures("", "1.png", "2.png", "3.png") | {"metadata.csv": "file_name,label\n1.png,cat\n2.png,dog\n"},
        {"train": ["cat", "dog"]},
        1,
    ),
    "above the pictures": (
        pictures("images", "1.png", "2.png") | {"metadata.jsonl": '{"file_name": "images/2.png", "label": "a"}\n'},
        {"train": ["a"]},
        1,
    ),
    "in each split": (
        {
            "train": 1,
            "train/metadata.csv": "file_name,label\n1.png,a\n",
            "val": 1,
            "val/metadata.csv": "file_name,label\n2.png,b\n",
        },
        {"train": ["a"], "validation": ["b"]},
        0,
    ),
    "in the training split alone": (
        {"train": 1, "train/metadata.csv": "file_name,label\n1.png,a\n", "test": 2},
        {"train": ["a"], "test": [None, None]},
        0,
    ),
    "with classes that are called like nothing": (
        pictures("a", "1.png", "2.png", "3.png", "4.png", "5.png")
        | {"a/metadata.csv": "file_name,label\n1.png,None\n2.png,NA\n3.png,crack\n4.png,\n5.png,null\n"},
        {"train": ["None", "NA", "crack", None, "null"]},
        0,
    ),
    "with that class alone": (
        pictures("", "1.png", "2.png") | {"metadata.csv": "\ufefffile_name,label\n1.png,NA\n2.png,NA\n"},
        {"train": ["NA", "NA"]},
        0,
    ),
    "beside truth values": (
        pictures("", "1.png", "2.png") | {"metadata.csv": "file_name,label,checked\n1.png,cat,True\n2.png,None,\n"},
        {"train": ["cat", "None"]},
        0,
    ),
    "with numbers of which some are missing": (
        pictures("", "1.png", "2.png") | {"metadata.csv": "file_name,label\n1.png,NA\n2.png,3\n"},
        {"train": [None, 3.0]},
        0,
    ),
    "in every class folder": (
        pictures("a", "1.png")
        | pictures("b", "1.png")
        | {f"{name}/metadata.csv": f"file_name,label\n1.png,{name}\n" for name in "ab"},
        {"train": ["a", "b"]},
        0,
    ),
    "that names AVIF and files without ending": (
        pictures("", "1.avif", "2", kind="AVIF") | {"metadata.csv": "file_name,label\n1.avif,3\n2,4\n"},
        {"train": [3, 4]},
        0,
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_names_pictures_and_labels(case, tmp_path):
    files, expected, left = METADATA[case]
    root = tmp_path / "photos[1]"
    root.mkdir()
    write(root, files)
    source = load(root)
    assert {split: part["label"][:] for split, part in source.rows.items()} == expected
    assert counts(source.left_out) == ({"pictures that no metadata file names": left} if left else {})


def test_another_column_of_metadata_holds_the_labels(tmp_path):
    write(tmp_path, pictures("", "1.png") | {"metadata.csv": "file_name,kind\n1.png,cat\n"})
    assert load(tmp_path, label_column="kind").rows["train"]["kind"][:] == ["cat"]


TABLES = {
    "one file": (["photos"], {"train": ["photos"]}),
    "shards": (
        ["data/train-00000-of-00002", "data/train-00001-of-00002"],
        {"train": ["data/train-00000-of-00002", "data/train-00001-of-00002"]},
    ),
    "a split of any name": (
        ["data/train-00000-of-00001", "data/extra-00000-of-00001"],
        {"train": ["data/train-00000-of-00001"], "extra": ["data/extra-00000-of-00001"]},
    ),
    "names of splits": (["TRAIN", "val", "test"], {"train": ["TRAIN"], "validation": ["val"], "test": ["test"]}),
    "words of splits": (
        ["my_train-0", "my_train-1", "cifar.test"],
        {"train": ["my_train-0", "my_train-1"], "test": ["cifar.test"]},
    ),
    "no words of splits": (["contest", "trainer"], {"train": ["contest", "trainer"]}),
    "folders": (
        ["default/train/0000", "default/test/train"],
        {"train": ["default/train/0000"], "test": ["default/test/train"]},
    ),
}


def table(path):
    """Write two pictures, told apart by the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [{"bytes": picture(1), "path": None}] * 2, "label": [0, 1], "file": [path.stem] * 2}
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["a", "b"]),
        "file": datasets.Value("string"),
    }
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", TABLES)
def test_files_of_many_pictures_belong_to_the_split_that_they_name(case, streaming, tmp_path):
    names, expected = TABLES[case]
    root = tmp_path / "photos[1]"
    for name in names:
        table(root / f"{name}.parquet")
    write(root, {"assets/logo.png": picture(1), "labels.csv": "a,b\n", "README.md": ""})
    source = load(root, streaming=streaming)
    files = {split: sorted({row["file"] for row in part}) for split, part in source.rows.items()}
    assert files == {split: [name.split("/")[-1] for name in found] for split, found in expected.items()}
    assert counts(source.left_out) == {
        "files beside those that are read (.parquet)": 2,
        "files that hold no pictures (.md)": 1,
    }


def test_a_table_that_names_no_split_or_two_is_refused(tmp_path):
    table(tmp_path / "train.parquet")
    table(tmp_path / "holdout.parquet")
    with pytest.raises(UsageError, match=r"'holdout.parquet' beside the splits 'train' names no split"):
        load(tmp_path)
    assert set(load(tmp_path, splits={"test": "holdout"}).rows) == {"train", "holdout"}
    unlabelled = load_raw(UnlabelledSection(path=str(tmp_path)), "data.unlabelled.0")
    assert found(unlabelled.rows) == {"train": {"a": 1, "b": 1}, "other": {"a": 1, "b": 1}}
    table(tmp_path / "train-test.parquet")
    with pytest.raises(UsageError, match=r"'train-test.parquet' has words of several splits"):
        load(tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_archives_of_webdataset_are_read(streaming, tmp_path):
    for name, numbers in {"train-0": (1, 2), "train-1": (3,), "test": (4,)}.items():
        files = [f"{number}.{ending}" for number in numbers for ending in ("png", "cls")]
        (tmp_path / f"{name}.tar").write_bytes(tarred(*files))
    rows = load(tmp_path, streaming=streaming).rows
    assert {split: [row["__key__"] for row in part] for split, part in rows.items()} == {
        "train": ["1", "2", "3"],
        "test": ["4"],
    }


def test_a_table_of_paths_is_read(tmp_path):
    import pandas

    frame = pandas.DataFrame({"image": ["a.png", "b.png"], "label": [0, 1]})
    frame.to_csv(tmp_path / "train.tsv", sep="\t", index=False)
    assert load(tmp_path).rows["train"].to_dict() == {"image": ["a.png", "b.png"], "label": [0, 1]}
    (tmp_path / "train.tsv").rename(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text("image,label\na.png,None\nb.png,NA\nc.png,\n")
    assert load(tmp_path).rows["train"]["label"][:] == ["None", "NA", None]
    (tmp_path / "train.csv").write_text("image,label\na.png,0\nb.png,NA\nc.png,1\n")
    assert load(tmp_path).rows["train"]["label"][:] == [0, None, 1]
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(b"image,label\na.png,None\nb.png,cat\n"))
    assert load(tmp_path).rows["train"]["label"][:] == ["None", "cat"]


@pytest.mark.parametrize("streaming", [False, True])
def test_what_datasets_saved_is_read(streaming, tmp_path):
    rows = datasets.Dataset.from_dict({"label": [1, 2]})
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "saved")
    loaded = load(tmp_path / "saved", streaming=streaming).rows
    assert {split: [row["label"] for row in part] for split, part in loaded.items()} == {"train": [1, 2], "test": [2]}


def test_the_card_of_a_data_set_says_which_files_make_which_split(tmp_path):
    table(tmp_path / "a.parquet")
    table(tmp_path / "b.parquet")
    files = "[{split: train, path: b.parquet}, {split: test, path: a.parquet}]"
    (tmp_path / "README.md").write_text(f"---\nconfigs: [{{config_name: default, data_files: {files}}}]\n---\n")
    rows = load(tmp_path).rows
    assert {split: set(part["file"]) for split, part in rows.items()} == {"train": {"b"}, "test": {"a"}}


def test_a_stream_of_a_folder_knows_its_length_and_mixes_its_classes(tmp_path):
    from hf_compress.data import load_data

    root = tmp_path / "photos::[1]"
    write(root, {f"{split}/{name}": 6 for split in ("train", "val", "test") for name in "ab"})
    data = load_data(DataSection(path=str(root), streaming=True), seed=0)
    assert (len(data.stream), len(data.validation), len(data.test)) == (12, 12, 12)
    stored = load_data(DataSection(path=str(root)), seed=0)
    streamed, again = list(data.stream), list(data.stream)
    data.stream.set_epoch(1)
    second = list(data.stream)
    assert [item["label"] for item in streamed] == [item["label"] for item in again]
    assert [item["label"] for item in streamed] not in ([item["label"] for item in second], [0] * 6 + [1] * 6)
    pixels = [sorted(item["view"].flatten().tolist() for item in part) for part in (streamed, second, stored.train)]
    assert pixels[0] == pixels[1] == pixels[2]


def test_the_advice_for_a_table_of_kaggle_works(tmp_path):
    write(tmp_path, pictures("images", "1.png", "2.png") | {"train.csv": "id,label\n"})
    with pytest.raises(UsageError, match=r"save it as metadata.csv in the folder of the pictures"):
        load(tmp_path)
    (tmp_path / "train.csv").unlink()
    (tmp_path / "images" / "metadata.csv").write_text("file_name,label\n1.png,cat\n2.png,dog\n")
    assert load(tmp_path).rows["train"]["label"][:] == ["cat", "dog"]

"""Folders of random layout: no file is lost, no picture changes its split or class, or the folder is refused.

What is right is computed here a second time, from the paths alone. 50 layouts are tried; 1,000 of them with
`--hypothesis-profile=thorough`.
"""

import hashlib
import io
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pytest
from hypothesis import event, given, note
from hypothesis import strategies as st
from PIL import Image

from hf_compress.data import load_data
from hf_compress.data.sources import load_raw
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection

ROLES = {
    "train": {"train", "training"},
    "validation": {"val", "valid", "validation", "dev", "eval"},
    "test": {"test", "testing"},
}
WORDS = {word: role for role, words in ROLES.items() for word in words}
NAMES = ["bus", "car", "a[1]", "owl 🦉", "Bus", "test tube", "train_station", "val2", "7.png"]
NAMES += ["train", "Test", "dev", "EVAL", "Training"]
ENDINGS = {".png": "PNG", ".JPG": "JPEG", ".webp": "WEBP", ".avif": "AVIF", ".bmp": "BMP", ".x.gif": "GIF", "": "PNG"}
OTHERS = [
    "notes.md",
    "photo.heic",
    "plan.SVG",
    "more.zip",
    "load.py",
    ".DS_Store",
    ".hidden.png",
    "Thumbs.db",
    "LICENSE",
]
POOL = 9  # distinct pictures, of which layouts hold many duplicates


@dataclass
class Tree:
    """What lies in a folder: files by the parts of their paths, and folders without any."""

    pictures: dict = field(default_factory=dict)  # the number of a picture and its ending, or None for a damaged one
    others: set = field(default_factory=set)
    empty: set = field(default_factory=set)
    linked: set = field(default_factory=set)  # folders that are links to folders elsewhere
    broken: set = field(default_factory=set)

    @property
    def foreign(self):
        return {parts for parts in self.others if parts[-1].lower().endswith((".heic", ".svg"))}

    @property
    def folders(self):
        visible = [*self.pictures, *self.others, *self.broken]
        return {parts[:n] for parts in visible for n in range(1, len(parts))} | {
            parts[:n] for parts in self.empty for n in range(1, len(parts) + 1)
        }


@st.composite
def trees(draw):
    """Mostly what users mean, with names and noise that mislead; now and then a mistake."""
    rarely = st.sampled_from([False] * 11 + [True])
    cased = st.sampled_from(sorted(WORDS)).flatmap(lambda word: st.sampled_from([word, word.title(), word.upper()]))
    splits = draw(st.lists(cased, max_size=3, unique_by=lambda name: WORDS[name.lower()]))
    if splits and not {WORDS[name.lower()] for name in splits} & {"train"} and not draw(rarely):
        splits.append(draw(st.sampled_from(["train", "Train", "TRAINING"])))
    if draw(rarely):
        splits.append(draw(st.sampled_from(["bus", "holdout", *WORDS])))
    depth = draw(st.sampled_from([0, 1, 1, 1, 2]))
    names = st.lists(st.sampled_from(NAMES), min_size=1 if draw(rarely) else 2, max_size=4, unique=True)
    paths = [()]
    for _ in range(depth):
        shared = draw(names)
        paths = [(*path, name) for path in paths for name in (shared if draw(st.booleans()) else draw(names))]
    tree = Tree()
    around = ("photos",) if draw(rarely) else ()
    for split in [(name,) for name in splits] or [()]:
        kept = [()] if draw(rarely) else paths
        for path in kept:
            for number in range(draw(st.integers(3, 5))):
                ending = draw(st.sampled_from(sorted(ENDINGS)))
                name = draw(st.sampled_from(["train_{}", "{}_val_1", "test-{}", "{}"])).format(number) + ending
                tree.pictures[(*around, *split, *path, name)] = (draw(st.integers(0, POOL - 1)), ending)
    places = st.sampled_from(sorted(tree.folders | {()}))
    for name in draw(st.lists(st.sampled_from(OTHERS), max_size=3)):
        tree.others.add((*draw(places), name))
    if draw(rarely):
        tree.pictures[(*draw(places), "corrupt.png")] = None
    if draw(rarely):
        tree.pictures[(*draw(places), draw(st.sampled_from(["", "originals"])), "x.png")] = (0, ".png")
        tree.pictures = {tuple(filter(None, parts)): value for parts, value in tree.pictures.items()}
    if draw(rarely):
        tree.empty.add((*draw(places), draw(st.sampled_from(["empty", "valid"]))))
    if draw(rarely):
        tree.others.add(
            (*draw(places), draw(st.sampled_from(["labels", "heic", "test"])), draw(st.sampled_from(OTHERS)))
        )
    if draw(rarely):
        tree.broken.add((*draw(places), "gone.png"))
    if draw(st.booleans()):
        leaves = {parts[:-1] for parts in tree.pictures if len(parts) > 1}
        leaves -= {parts[:n] for parts in tree.folders for n in range(len(parts))}
        tree.linked = set(draw(st.lists(st.sampled_from(sorted(leaves)), max_size=2))) if leaves else set()
    return tree


def write(tree, root, elsewhere, pool):
    """Write a tree; pictures are hard links to those of the pool."""
    for number, folder in enumerate(sorted(tree.linked)):
        (elsewhere / str(number)).mkdir(parents=True)
        root.joinpath(*folder[:-1]).mkdir(parents=True, exist_ok=True)
        root.joinpath(*folder).symlink_to(elsewhere / str(number))
    for folder in [*tree.folders, ()]:
        root.joinpath(*folder).mkdir(parents=True, exist_ok=True)
    for parts, picture in tree.pictures.items():
        if picture is None:
            root.joinpath(*parts).write_bytes(b"no picture")
        else:
            os.link(pool[picture], root.joinpath(*parts))
    for parts in tree.others:
        root.joinpath(*parts).write_text("something else")
    for parts in tree.broken:
        root.joinpath(*parts).symlink_to("nowhere")


def begins_with_a_split(name):
    return re.split("[^a-z]", name.lower())[0] in WORDS


def meant(tree):
    """Return what is right, `{parts: (split, parts of the class, None without classes)}`; None to be refused."""
    pictures, alike = set(tree.pictures), set(tree.pictures) | tree.foreign
    folders = {folder for folder in tree.folders if not any(part.startswith(".") for part in folder)}
    base = ()
    while len({parts[: len(base) + 1] for parts in alike}) == 1:
        (inner,) = {parts[: len(base) + 1] for parts in alike}
        direct = any(parts[:-1] == inner for parts in alike)
        if inner in alike or inner[-1].lower() in WORDS or direct:
            break
        base = inner
    depth = len(base)
    tops = {parts[depth] for parts in alike if len(parts) > depth + 1}
    splits = {top for top in tops if top.lower() in WORDS}
    roles, others = [WORDS[top.lower()] for top in splits], tops - splits
    if splits and others:
        nested = any(parts[depth] in splits and len(parts) > depth + 2 for parts in alike)
        whole = "train" in roles and (len(set(roles)) > 1 or len(others) == 1)
        if nested or whole or all(map(begins_with_a_split, others)):
            return None
        splits = set()
    elif splits:
        if len(set(roles)) < len(roles) or any(len(parts) == depth + 1 for parts in pictures):
            return None
        here = {folder[-1] for folder in folders if folder[:-1] == base}
        if any(name.lower() in WORDS for name in here - splits):
            return None
    else:
        below = [
            {parts[depth + 1] for parts in alike if parts[depth] == top and len(parts) > depth + 2} for top in tops
        ]
        nearly = any(word in WORDS for top in tops for word in re.split("[^a-z]+", top.lower()))
        if len(tops) > 1 and nearly and set.intersection(*below):
            return None
    bases = {WORDS[top.lower()]: (*base, top) for top in splits} or {"train": base}
    result, depths = {}, {}
    for split, place in bases.items():
        inside = {parts for parts in pictures if parts[: len(place)] == place}
        classes = {parts: parts[len(place) : -1] for parts in inside}
        depths[split] = set(map(len, classes.values()))
        if len(depths[split]) != 1:
            return None
        (deep,) = depths[split]
        levels = {
            folder for folder in folders if folder[: len(place)] == place and 0 < len(folder) - len(place) <= deep
        }
        if levels - {parts[:n] for parts in inside for n in range(len(parts))}:
            return None
        result |= {parts: (split, path if deep else None) for parts, path in classes.items()}
    deep = set().union(*depths.values()) - {0}
    if len(deep) > 1 or (deep and depths.get("train") == {0}):
        return None
    return None if len({path for _, path in result.values() if path}) == 1 else result


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    paths = {}
    for number in range(POOL):
        for ending, kind in ENDINGS.items():
            file = io.BytesIO()
            Image.new("RGB", (2, 2), (9 * number, 5, 200 - 9 * number)).save(file, kind)
            paths[number, ending] = folder / f"{number}{ending}"
            paths[number, ending].write_bytes(file.getvalue())
    return paths


def paths_of(rows):
    return [picture["path"] for picture in rows.cast_column("image", datasets.Image(decode=False))["image"]]


def digests_of(rows):
    return {hashlib.sha256(Path(path).read_bytes()).digest() for path in paths_of(rows)}


@given(tree=trees())
def test_no_file_is_lost_and_no_picture_changes_its_split_or_class(tree, pool, tmp_path_factory):
    place = tmp_path_factory.mktemp("layout")
    root = place / "photos"
    try:
        write(tree, root, place / "elsewhere", pool)
        check(tree, root)
    finally:
        shutil.rmtree(place)


def check(tree, root):
    expected = meant(tree)
    note(f"{sorted('/'.join(parts) for parts in [*tree.pictures, *tree.others, *tree.empty, *tree.broken])}")
    if expected is None:
        event("refused")
        with pytest.raises(UsageError, match=r"'data.path': in .*, ."):
            load_raw(DataSection(path=str(root)), "data")
        return
    source = load_raw(DataSection(path=str(root)), "data")
    every = len(tree.pictures) + len(tree.others) + len(tree.broken)
    assert every == sum(map(len, source.rows.values())) + sum(item.count for item in source.left_out)
    assert found(source.rows, root) == expected_names(expected)
    divided(source.rows, root)


def found(rows, root):
    """Return `{path: (split, name of the class)}`."""
    result = {}
    for split, part in rows.items():
        names = part.features["label"].names if "label" in part.features else []
        labels = part["label"] if names else [None] * len(part)
        for path, label in zip(paths_of(part), labels, strict=True):
            result[os.path.relpath(path, root)] = (split, None if label is None else names[label])
        assert names == sorted(names)
    assert len(result) == sum(map(len, rows.values()))
    return result


def expected_names(expected):
    classes = {path for _, path in expected.values() if path}
    long = max(Counter(path[-1] for path in classes).values(), default=1) > 1
    names = {path: "/".join(path) if long else path[-1] for path in classes} | {None: None}
    return {"/".join(parts): (split, names[path]) for parts, (split, path) in expected.items()}


def divided(rows, root):
    """What a run makes of these rows: held-out pictures stay held out, all are used, none twice."""
    fractions = {"splits": {"train": 0.4, "validation": 0.3, "test": 0.3}} if set(rows) == {"train"} else {}
    try:
        data = load_data(DataSection(path=str(root), **fractions), seed=0)
    except (RunError, UsageError) as error:
        event("not divided: " + re.sub(r"'[^']*'|\d+", "...", str(error))[:60])
        return
    event("divided")
    parts = {role: paths_of(part.pictures) for role, part in data.splits.items()}
    if data.unlabelled is not None:
        parts["unlabelled"] = paths_of(data.unlabelled.pictures)
    assert max(Counter(path for part in parts.values() for path in part).values()) == 1
    held_out = {path for split in rows if split != "train" for path in paths_of(rows[split])}
    assert not held_out & set(parts["train"])
    corrupt = sum(facts["corrupt_images_skipped"] for facts in data.facts["splits"].values())
    if len({part.labelled for part in data.splits.values()}) == 1:
        unused = sum(item["count"] for item in data.facts["left_out"] if item["reason"].startswith("split "))
        assert sum(map(len, parts.values())) + corrupt + unused == sum(map(len, rows.values()))
    if fractions:
        assert no_picture_twice(data)
    try:
        data = load_data(DataSection(path=str(root), on_leak="drop", **fractions), seed=0)
    except RunError as error:
        event("nothing left: " + re.sub(r"'[^']*'|\d+", "...", str(error))[:60])
        return
    assert no_picture_twice(data)


def no_picture_twice(data):
    digests = [digests_of(part.pictures) for part in data.splits.values()]
    return sum(map(len, digests)) == len(set().union(*digests))

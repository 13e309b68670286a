"""From the `data` section of a recipe to three splits of images with aligned labels."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
from transformers import BaseImageProcessor

from hf_compress.checkpoint.labels import positions
from hf_compress.data.annotations import Annotation, FoundLabels, Reader, classes_of
from hf_compress.data.augmentation import build_augmentation
from hf_compress.data.decoded import Room
from hf_compress.data.images import IGNORED_LABEL, ImageSplit, input_size
from hf_compress.data.label_columns import encoded, label_column_of, nothing_known, refuse_many, unequal_files
from hf_compress.data.local import Source
from hf_compress.data.mixing import Mixing
from hf_compress.data.parts import Parts, read_and_divide, settle, unused_splits
from hf_compress.data.sources import features_of, image_column_of, load_raw
from hf_compress.data.splits import USUAL_NAMES, choose, choose_to_evaluate, labelled_splits, sizes_of
from hf_compress.data.streaming import ImageStream, open_stream, split_names
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection, PicturesSection


@dataclass
class ImageData:
    """The images of a run.

    Attributes:
        stream: the training images of a data set that is streamed; `train` holds a sample of them.
        unlabelled: further training images, of which no label is known; only a distillation learns from them.
        label_names: class names in the order of the labels; empty when the data has no labels.
        named: whether the names come from the data; plain numbers carry no name.
        mixing: how the pictures that train are mixed, once they are augmented.
        epoch_length: images that an epoch of a training with labels shows, where each is shown more than once.
        facts: counts and origins for the report.
        by_teacher: whether the labels of validation and test images are a teacher's answers.
    """

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    label_names: list[str]
    named: bool
    unlabelled: ImageSplit | None = None
    stream: ImageStream | None = None
    mixing: Mixing | None = None
    epoch_length: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    workers: int = 0
    by_teacher: bool = False

    @property
    def splits(self) -> dict[str, ImageSplit]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def training(self) -> ImageSplit | ImageStream:
        """The images that a training with labels learns from."""
        return self.train.in_epochs_of(self.epoch_length) if self.stream is None else self.stream

    @property
    def with_unlabelled(self) -> ImageSplit | ImageStream:
        """The training images, followed by those without labels."""
        return self.training if self.unlabelled is None else self.train.followed_by(self.unlabelled)

    @property
    def labelled(self) -> bool:
        return bool(self.label_names)

    @property
    def digest(self) -> str:
        """What identifies the stored pictures of all roles, their order, and which classes they show."""
        digest = hashlib.sha256()
        for images in [*self.splits.values(), *([self.unlabelled] if self.unlabelled else [])]:
            digest.update(images.decoded.fingerprint.encode())
            digest.update(repr([classes_of(label) for label in images.labels]).encode())
        return digest.hexdigest()

    def aligned(self, names: list[str]) -> ImageData | None:
        """Return the same images with labels in the order of `names` (a model's labels), matched by name.

        Returns:
            None when the two sets of names differ.
        """
        new = positions(self.label_names, names) if self.named else list(range(len(self.label_names)))
        if new is None or len(names) != len(new):
            return None
        facts = _renamed(self.facts, {old: names[number] for old, number in zip(self.label_names, new, strict=True)})
        if not self.named:
            return replace(self, label_names=list(names), facts=facts)
        splits = {
            role: images.with_labels([_renumbered(label, new) for label in images.labels])
            for role, images in self.splits.items()
        }
        stream = self.stream and self.stream.renumbered(new)
        return replace(self, **splits, stream=stream, label_names=list(names), facts=facts)

    def augmented(self, name: str, *processors: BaseImageProcessor) -> ImageData:
        """Return the same images, those that train mixed, and augmented in the largest size that a processor makes."""
        heights, widths = zip(*map(input_size, processors), strict=True)
        augment = build_augmentation(name, (max(heights), max(widths)))
        if self.stream is None:
            return replace(self, train=self.train.augmented(augment, self.mixing))
        return replace(self, stream=self.stream.augmented(augment, self.mixing))


class _Classes(Reader):
    """Pictures of one class each."""

    def open(self, section):
        return load_raw(section, "data")

    def image_column(self, rows, section):
        return image_column_of(rows, section, "data")

    def read(self, source, image_column, section):
        column = label_column_of(source.rows, section)
        if column is None:
            return nothing_known(source.rows, section)
        footers = unequal_files(source.files, column, image_column, section.path)
        return FoundLabels(*encoded(source.rows, column, footers))


class PlainPictures(_Classes):
    """Pictures alone, whatever else the data set holds."""

    def open(self, section):
        return load_raw(PicturesSection.of(section), "data")

    def read(self, source, image_column, section):
        return FoundLabels(None, [], False)


def load_data(section: DataSection, seed: int, to_evaluate: bool = False, reader: Reader | None = None) -> ImageData:
    """Load, check and divide the images.

    Args:
        to_evaluate: choose images to try a model on that was not trained on them: the test split, or everything. They
            stand in for training and validation images where there are none.
        reader: of what the pictures show; one class each when not given.

    Raises:
        UsageError: the data set, a column or a split does not exist.
        RunError: a class is empty, the images are too few, or one is corrupt or leaks and the recipe says stop.
    """
    if section.streaming:
        if reader is not None:
            raise UsageError("'data.streaming' reads one class a picture: leave it out, the task needs more")
        return _load_stream(section, seed)
    reader = reader or _Classes()
    source = reader.open(section)
    raw, sizes = source.rows, sizes_of(source.rows)
    image_column = reader.image_column(raw, section)
    found = reader.read(source, image_column, section)
    labelled = set() if found.labels is None else labelled_splits(found.labels, sizes)
    chosen = choose_to_evaluate(sizes, labelled) if to_evaluate else choose(sizes, section.splits, labelled)
    room = Room(section.cache_mb * 2**20)
    parts = read_and_divide(raw, image_column, found, chosen, section, seed, room)
    commits, left_out = parts.read_unlabelled(section, room)
    left_out = source.left_out + unused_splits(sizes, chosen, section) + left_out
    facts = settle(parts, section, found.names, left_out)
    if not to_evaluate:
        parts.set_aside(section.labelled, seed)
    data = _image_data(parts, found.names, found.named, section, source, facts, commits)
    data.train.views, data.train.seed = section.views, seed
    if not to_evaluate and found.annotations is None:
        _refuse_empty_classes(data, section)
    return data


def _image_data(
    parts: Parts,
    names: list[str],
    named: bool,
    section: DataSection,
    source: Source,
    facts: dict[str, Any],
    unlabelled_commits: list[str | None],
) -> ImageData:
    """Return the images of all roles, each an object of its own; those to evaluate stand in for others."""
    images = {role: parts.images.get(role, parts.images["test"]).without_augmentation() for role in USUAL_NAMES}
    origin = {"path": section.path, "revision": source.commit, "unlabelled_revisions": unlabelled_commits}
    return ImageData(
        **images,
        unlabelled=parts.images.get("unlabelled"),
        label_names=names,
        named=named,
        mixing=Mixing(section.mixup, section.cutmix) if section.mixes else None,
        facts=origin | {"splits": parts.facts(names)} | facts,
        workers=section.workers,
    )


def _load_stream(section: DataSection, seed: int) -> ImageData:
    """The same for a data set whose training images are not kept; see `streaming.open_stream`."""
    source = load_raw(section, "data", streaming=True)
    raw = source.rows
    if features_of(raw) is None:
        raw = datasets.IterableDatasetDict({name: rows._resolve_features() for name, rows in raw.items()})
    image_column = image_column_of(raw, section, "data")
    label_column = label_column_of(raw, section)
    if label_column is None:
        nothing_known(raw, section)
    feature = features_of(raw)[label_column] if label_column else None
    if feature is not None and not isinstance(feature, datasets.ClassLabel):
        raise UsageError(
            f"'data.label_column': a stream must know its classes beforehand, but column '{label_column}' holds "
            f"{feature.dtype}: store it as a ClassLabel of `datasets`, or leave out 'data.streaming'"
        )
    splits = split_names(raw, section)
    used = {split: files for split, files in source.files.items() if split in splits.values()}
    if unequal_files(used, label_column, image_column, section.path):
        raise UsageError(
            f"'data.label_column': the files of {section.path} have different lists of class names in column "
            f"'{label_column}': write them with one list, or leave out 'data.streaming'"
        )
    names = list(feature.names) if feature is not None else []
    refuse_many(len(names), label_column)
    stream, parts = open_stream(raw, splits, section, image_column, label_column, seed)
    facts = settle(parts, section, names, source.left_out)
    held_out = (parts.images[role].decoded.keys.tolist() for role in ("validation", "test"))
    stream.held_out, stream.on_leak = frozenset(itertools.chain(*held_out)), section.on_leak
    data = _image_data(parts, names, bool(names), section, source, facts, [])
    data.stream = stream
    data.facts["splits"]["train"] |= {
        "images": len(stream),
        "corrupt_images_skipped": None,
        "unlabelled_images": None,
        "images_by_class": {},
    }
    return data


def _renamed(facts: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return facts for the report with other names for the classes."""
    splits = {
        role: split | {"images_by_class": {names[old]: count for old, count in split["images_by_class"].items()}}
        for role, split in facts["splits"].items()
    }
    conflicts = [
        conflict | {"labels": [names[old] for old in conflict["labels"]]} for conflict in facts["conflicting_labels"]
    ]
    return facts | {"splits": splits, "conflicting_labels": conflicts}


def _renumbered(label: Any, new: list[int]) -> Any:
    if isinstance(label, Annotation):
        return label.renumbered(new)
    return label if label == IGNORED_LABEL else new[label]


def _refuse_empty_classes(data: ImageData, section: DataSection) -> None:
    if not data.labelled:
        return
    if len(data.label_names) == 1:
        raise RunError(
            f"{section.path} has one class only, '{data.label_names[0]}', and a classifier needs two: add images of "
            "another class"
        )
    present = set(data.train.labels)
    empty = [name for label, name in enumerate(data.label_names) if label not in present]
    if empty:
        raise RunError(
            f"class '{empty[0]}' has no training images in {section.path}"
            f"{f' (and {len(empty) - 1} more classes)' if len(empty) > 1 else ''}: add images or remove the class"
        )

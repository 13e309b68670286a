"""What a picture shows where one class is not enough, such as a mask: a label of an `ImageSplit` in place of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

    from hf_compress.data.local import Source
    from hf_compress.sections.data import DataSection


class Annotation(ABC):
    """What one picture shows. It is read when the picture is, so that masks need not lie in memory.

    Attributes:
        classes: that occur in it, each once.
    """

    classes: tuple[int, ...]

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """Return all of it, by name, for the whole picture.

        `tv_tensors` of torchvision move with the picture when it is augmented, other tensors stay as they are; the
        `label` of an item holds the result.
        """

    @abstractmethod
    def renumbered(self, new: Sequence[int]) -> Annotation:
        """Return the same with class `new[i]` where it had class i."""

    def in_view(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is left of parts that an augmentation has moved; by default, everything."""
        return parts


@dataclass
class FoundLabels:
    """What is known of all pictures of a data set, the splits one after the other.

    Attributes:
        labels: class indices, negative where there is none; of annotated pictures any number that is not; None where
            no picture has a label.
        names: of the classes.
        named: whether these come from the data, and are not mere numbers.
        annotations: one a picture, None where it has none; None where pictures have classes.
    """

    labels: np.ndarray | None
    names: list[str]
    named: bool
    annotations: list[Annotation | None] | None = None


class Reader(ABC):
    """How the pictures of a task, and what they show, are found in the data set that a recipe names."""

    @abstractmethod
    def open(self, section: DataSection) -> Source:
        """Return the rows of a data set; see `sources.load_raw` for the errors."""

    @abstractmethod
    def image_column(self, rows: datasets.DatasetDict, section: DataSection) -> str:
        """Return the name of the column of pictures; UsageError where it is not clear."""

    @abstractmethod
    def read(self, source: Source, image_column: str, section: DataSection) -> FoundLabels:
        """Return what the pictures show.

        Raises:
            UsageError: a column is missing, or holds something else.
            RunError: what it holds is damaged, and the recipe says stop.
        """


def as_item(label: Any) -> Any:
    """Return what an item holds of a label: the parts of an annotation."""
    return label.parts() if isinstance(label, Annotation) else label


def classes_of(label: Any) -> tuple[int, ...]:
    """Return the classes that a label names."""
    return label.classes if isinstance(label, Annotation) else (label,)


def as_numbers(labels: Iterable[Any]) -> np.ndarray:
    """Return class indices as they are, and 0 for everything else."""
    return np.array([label if isinstance(label, int) else 0 for label in labels], dtype=int)

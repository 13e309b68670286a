"""Test pictures with what models say of them, in a form that can be drawn whatever the task: panels in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

TRUTH, FINAL = "truth", "final model"
LONGEST = 18
Colour = tuple[int, int, int]  # red, green and blue
WHITE, OTHER = (255, 255, 255), (190, 190, 190)
COLOURS: tuple[Colour, ...] = (
    (0, 0, 0),  # from here on those of Okabe and Ito, which the colour-blind can tell apart
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (110, 60, 20),  # and others between them
    (120, 60, 170),
    (165, 225, 110),
    (250, 185, 190),
    (0, 80, 70),
    (130, 20, 60),
    (125, 125, 0),
    (190, 165, 250),
)


class Mark(NamedTuple):
    """A box in a picture: left, top, right, bottom as shares of it."""

    box: Sequence[float]
    colour: Colour
    text: str


@dataclass(frozen=True)
class Panel:
    """A picture, uint8 (height, width, 3), with what belongs to it.

    Attributes:
        text: above it.
        wrong: whether the text tells of a mistake.
        marks: in the order of what is most worth reading.
        tall: the height of its pixels where their width is 1.
        exact: whether its colours stand for numbers and must not be blended.
    """

    picture: np.ndarray
    text: str = ""
    wrong: bool = False
    marks: tuple[Mark, ...] = ()
    tall: float = 1.0
    exact: bool = False


@dataclass(frozen=True)
class Sheet:
    """Panels in rows, the names of rows and columns where they have some, and what the colours stand for."""

    rows: list[list[Panel]]
    names: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    legend: dict[str, Colour] = field(default_factory=dict)


def coloured(classes: Sequence[int], colours: Sequence[Colour] = COLOURS) -> dict[int, Colour]:
    """Give each class a colour of its own as far as there are some, the first ones first; the others share one."""
    return {number: colours[place] if place < len(colours) else OTHER for place, number in enumerate(classes)}


def legend(colours: Mapping[int, Colour], names: Sequence[str]) -> dict[str, Colour]:
    """Return the names of classes that have a colour of their own, and what the rest is called."""
    found = {names[number]: colour for number, colour in colours.items() if colour != OTHER}
    return found | ({"other classes": OTHER} if OTHER in colours.values() else {})


def short(name: str) -> str:
    """Return a name on one line, of at most 18 characters."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"

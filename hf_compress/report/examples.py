"""A few test images and what the final model says of them: some that it gets right, some that it gets wrong."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hf_compress.report.style import GREY, ORANGE, STYLE, WIDTH, drawable, save_figure
from hf_compress.tasks.base import Shown

EXAMPLES = "figures/examples.png"
CAPTION = "Test images, and what the final model says of them: right answers above, wrong ones below, the surest first"
COLUMNS, LONGEST = 5, 18
Example = tuple[np.ndarray, Shown]


def chosen(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Return at most five that are right, of as many classes as there are, and the five that are most surely wrong."""
    right = [each for each in examples if each[1].right]
    wrong = sorted((each for each in examples if not each[1].right), key=lambda each: -each[1].share)
    first = list({each[1].true: each for each in reversed(right)}.values())[::-1]
    others = [each for each in right if all(each is not one for one in first)]
    return (first + others)[:COLUMNS], wrong[:COLUMNS]


def draw_examples(examples: list[Example], file: Path) -> None:
    """Draw pictures, uint8 (height, width, 3), with what is said of them."""
    rows = [row for row in chosen(examples) if row]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.9 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for row, line in zip(rows, grid, strict=True):
            for (picture, shown), axes in zip(row, line, strict=False):
                axes.imshow(picture, interpolation="nearest" if picture.shape[0] < 64 else "antialiased")
                text = f"{drawable(shown.said, LONGEST)} {shown.share:.0%}"
                if not shown.right:
                    text += f"\nis {drawable(shown.true, LONGEST)}"
                axes.set_title(text, fontsize=8, loc="center", color=GREY if shown.right else ORANGE)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, file)

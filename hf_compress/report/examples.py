"""A few test images and what models say of them, drawn for a card."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import Bbox

from hf_compress.report.style import GREY, ORANGE, PHOTO_COLOURS, STYLE, WIDTH, drawable, save_figure
from hf_compress.tasks.sheets import Colour, Mark, Panel, Sheet

EXAMPLES = "figures/examples.png"
LINE, LONGEST, SMALL = 0.16, 40, 64
BORDER = 3  # pixels around the text at a box
WIDEST, TALLEST = 2.2, 1.1  # a panel in inches, and a row by its panels' width
PLACES = (("left", "bottom", 0, 1), ("left", "top", 0, 1), ("right", "bottom", 2, 1), ("right", "top", 2, 1))
PLACES += (("left", "bottom", 0, 3), ("left", "top", 0, 3), ("right", "bottom", 2, 3), ("right", "top", 2, 3))


def draw_examples(sheet: Sheet, file: Path) -> None:
    """Draw panels in rows, and below them what the colours stand for."""
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = examples_figure(sheet)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, file, PHOTO_COLOURS, list(dict.fromkeys(sheet.legend.values())))


def examples_figure(sheet: Sheet) -> Figure:
    columns = max(map(len, sheet.rows))
    width = min(WIDTH / columns, WIDEST)
    heights = [width * min(TALLEST, max(map(_shape, row))) + LINE * max(map(_lines, row)) for row in sheet.rows]
    size = (width * columns, sum(heights))
    figure = Figure(figsize=size, dpi=STYLE["savefig.dpi"], layout="constrained")
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_visible(False)
    lines = zip(sheet.rows, grid, strict=True)
    drawn = [(panel, axes) for row, line in lines for panel, axes in zip(row, line, strict=False)]
    for panel, axes in drawn:
        _draw(panel, axes)
    for name, line in zip(sheet.names, grid, strict=False):
        line[0].set_ylabel(name, color=GREY)
    for heading, axes in zip(sheet.headings, grid[0], strict=False):
        axes.set_title(heading, fontsize=8, loc="center", color=GREY)
    _explain(sheet.legend, figure)
    if any(panel.marks for panel, _ in drawn):
        figure.draw_without_rendering()  # places everything, so that texts know what they lie upon
        figure.set_layout_engine("none")
    for panel, axes in drawn:
        _write(panel.marks, axes)
    return figure


def _explain(legend: dict[str, Colour], figure: Figure) -> None:
    entries = [
        Patch(facecolor=_hex(colour), edgecolor=GREY, linewidth=0.5, label=drawable(name, LONGEST))
        for name, colour in legend.items()
    ]
    if entries:
        figure.legend(handles=entries, loc="outside lower center", ncols=5, fontsize=8)


def _shape(panel: Panel) -> float:
    """Return the height of a panel by its width."""
    return panel.tall * panel.picture.shape[0] / panel.picture.shape[1]


def _lines(panel: Panel) -> int:
    return len(panel.text.splitlines())


def _draw(panel: Panel, axes: Axes) -> None:
    height, width = panel.picture.shape[:2]
    axes.set(visible=True, xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.5)
    blended = not panel.exact and height >= SMALL
    axes.imshow(
        panel.picture, interpolation="antialiased" if blended else "nearest", aspect=panel.tall, extent=(0, 1, 1, 0)
    )
    axes.set_aspect(panel.tall * height / width)
    text = "\n".join(drawable(line, LONGEST) for line in panel.text.splitlines())
    axes.set_title(text, fontsize=8, loc="center", color=ORANGE if panel.wrong else GREY)
    for mark in reversed(panel.marks):
        left, top, right, bottom = mark.box
        box = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=_hex(mark.colour), linewidth=1.2
        )
        axes.add_patch(box)


def _write(marks: tuple[Mark, ...], axes: Axes) -> None:
    """Write each mark's text at a corner of its box where it covers no other text; where all are taken, nowhere."""
    taken: list[Bbox] = []
    inside = axes.get_window_extent().padded(BORDER)
    for mark in marks:
        dark = sum(mark.colour) < 3 * 128
        ground = {"facecolor": _hex(mark.colour), "linewidth": 0, "pad": 1}
        text = axes.text(0, 0, drawable(mark.text, LONGEST), fontsize=6, color="w" if dark else "k", bbox=ground)
        for side, above, x, y in PLACES:
            corner = tuple(min(max(mark.box[edge], 0), 1) for edge in (x, y))
            text.set(position=corner, horizontalalignment=side, verticalalignment=above)
            extent = text.get_window_extent().padded(BORDER)
            if inside.count_contains(extent.corners()) == 4 and not extent.count_overlaps(taken):
                taken.append(extent)
                break
        else:
            text.remove()


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)

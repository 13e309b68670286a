"""How figures look, and what their plots have in common."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image

from hf_compress.ground.files import whole_file
from hf_compress.report.markdown import one_line
from hf_compress.tasks.sheets import Colour

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"  # distinguishable when colour-blind
GREY, PALE = "#6b6b6b", "#b9d5e8"
WIDTH = 7.0  # inches
COLOURS, PHOTO_COLOURS = 64, 256
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "savefig.dpi": 130,
    "text.parse_math": False,
}


def drawable(text: str, length: int) -> str:
    """Return a name on one line, cut to `length`, with a box for every character that the font lacks."""
    font = get_font(findfont("DejaVu Sans"))
    line = one_line(text).replace("\u200d", "")
    line = line if len(line) <= length else line[: length - 1] + "…"
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in line)


def save_figure(figure: Figure, path: Path, colours: int = COLOURS, exact: Sequence[Colour] = ()) -> None:
    """Write a PNG with a palette: a third of the size, and the same bytes for the same report.

    Args:
        exact: colours that stay as they are, however few pixels have them.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    whole = Image.open(buffer).convert("RGB")
    picture = _exactly(whole, whole.quantize(colours - len(exact), dither=Image.Dither.NONE), exact)
    with whole_file(path) as new:
        picture.save(new, optimize=True)


def _exactly(whole: Image.Image, picture: Image.Image, colours: Sequence[Colour]) -> Image.Image:
    """Return a picture with a palette in which the pixels of some colours have these again."""
    pixels, numbers, palette = np.asarray(whole), np.array(picture), picture.getpalette()
    for colour in colours:
        numbers[(pixels == colour).all(axis=2)] = len(palette) // 3
        palette += colour
    picture = Image.fromarray(numbers)
    picture.putpalette(palette)
    return picture


def make_panels(height: float, columns: int = 1, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """Return a figure, its sides in inches, and the axes that stand side by side in it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])


def top_down(axes: Axes, rows: int) -> None:
    """The first row on top, no lines between the rows."""
    axes.set_ylim(rows - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)

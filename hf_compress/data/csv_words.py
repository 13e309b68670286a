"""CSV files word by word: pandas, by which `datasets` reads them, takes words such as None and NA for nothing."""

import csv
import io
from typing import IO

from fsspec.compression import compr
from fsspec.utils import infer_compression

from hf_compress.data.addresses import opened
from hf_compress.data.folders import FolderError

NOTHING = {
    *("", " ", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
    *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
"""What pandas takes for nothing (`read_csv`, `na_values`)."""
LONGEST = 2**30  # characters of a cell: polygons may stand in one


def lines_of(address: str, separator: str = ",") -> list[dict[str, str]]:
    """Return the lines of a file, its cells by their columns.

    Raises:
        FolderError: it is no text of that form.
    """
    csv.field_size_limit(LONGEST)
    try:
        with opened(address) as packed, _unpacked(packed, address) as file:
            return list(csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=separator))
    except (csv.Error, UnicodeDecodeError) as error:
        raise FolderError(f"{address!r} cannot be read: {error}") from None


def _unpacked(file: IO[bytes], address: str) -> IO[bytes]:
    """Return what a file holds whose name may end in `.gz` or the like."""
    kind = infer_compression(address)
    return compr[kind](file, mode="rb") if kind else file


def columns_of_numbers(lines: list[dict[str, str]]) -> set[str]:
    """Return the columns in which nothing but numbers stand, at least one: there, NA is a number that is missing."""
    found = set()
    for name in lines[0] if lines else ():
        cells = {line.get(name) or "" for line in lines} - NOTHING
        if cells and all(map(_is_number, cells)):
            found.add(name)
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

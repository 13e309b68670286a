"""Tables in a terminal of 80 or 120 columns: every word and number of them is read."""

import io
import json

import pytest
from documented import ROOT
from rich.console import Console

from hf_compress.report.table import deployed_table, report_table, search_table

REPORT = json.loads((ROOT / "model_cards" / "quickstart" / "report.json").read_text())
DONE = ["as it is", "60% of the MACs pruned by obs (scope damage), 192 pixels, int8", "a copy of width 0.5, trained"]
POINTS = [
    {
        "name": f"{number:02}",
        "what": what,
        "quality": 0.934 - number / 9,
        "lost": number / 9,
        "latency_ms": 1234.5 / (number + 1),
        "teacher_ms": 1234.5,
        "bytes": 923_456_789,
        "macs": 97.81e6,
        "parameters": 703_390,
        "effort": 97.81e6 / (number + 1),
        "front": True,
        "winner": number == 2,
    }
    for number, what in enumerate(DONE)
]
TABLES = {
    "report": report_table(REPORT),
    "report of a chain": report_table(
        {"rows": [row | {"stage": f"{number} {row['stage']}"} for number, row in enumerate(REPORT["rows"] * 2)]}
    ),
    "deployed": deployed_table(REPORT["deployed"]),
    "search": search_table({"search": {"metric": "accuracy", "points": POINTS}}),
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", TABLES)
def test_nothing_of_a_table_is_cut_off(name, width):
    table, text = TABLES[name], io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in text.getvalue()
    told = "".join("".join(str(column.header).split()) + "".join(map(str, column.cells)) for column in table.columns)
    letters = [letter for letter in told if letter.isalnum()]
    assert sum(map(str.isalnum, "".join(lines))) >= len(letters)


@pytest.mark.parametrize(
    ("name", "width"), [("report", 80), ("deployed", 80), ("search", 80), ("report of a chain", 120)]
)
def test_no_word_or_number_is_broken(name, width):
    table, text = TABLES[name], io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    for column in table.columns:
        for word in " ".join([str(column.header), *map(str, column.cells)]).split():
            assert word in text.getvalue(), f"'{word}' of column '{column.header}'"

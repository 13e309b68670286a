"""The notebook, as a reader runs it: all cells in order, in an empty folder, without a network."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def cells():
    """Return the code of the notebook, which keeps no outputs."""
    found = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not [cell for cell in found if cell["outputs"] or cell["execution_count"]]
    return ["".join(cell["source"]) for cell in found]


def run_cell(code, names):
    """Run a cell; return what it would show, the value of a last line that is an expression."""
    *statements, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        statements, last = [*statements, last], None
    exec(compile(ast.Module(statements, []), str(NOTEBOOK), "exec"), names)
    return last and eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


@pytest.mark.long
def test_the_cells_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    shown = [run_cell(code, names) for code in cells()]
    assert "did you mean 'epochs'?" in capsys.readouterr().out
    teacher, *_, last = names["run"].report["rows"]
    assert last["quality"]["accuracy"] > 0.9
    assert last["cost"]["parameters"] < teacher["cost"]["parameters"] / 4
    said, of_the_file = shown[-3][0], shown[-2][0]["classes"][0]
    assert said["label"] == of_the_file["label"] == str(names["digits"].target[-1])
    assert names["pruned"].macs[1] < names["pruned"].macs[0] / 2

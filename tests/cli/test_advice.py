"""What errors advise is there: options of commands, keys of recipes, commands and extras of the package."""

import ast
import re
import tomllib
from functools import cache

import pytest
import typer
from documented import ROOT

from hf_compress.cli import app
from hf_compress.run.recipe import recipe_schema
from hf_compress.steps import STEPS
from hf_compress.study.config import study_schema


@cache
def texts():
    """Return the sentences of all errors; `_` stands where a value is put in."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "hf_compress").rglob("*.py"))]
    errors = [node.exc for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    strings = [node for error in errors for node in ast.walk(error) if isinstance(node, ast.JoinedStr | ast.Constant)]
    return ["".join(map(plain, getattr(node, "values", [node]))) for node in strings]


def plain(part):
    return str(part.value) if isinstance(part, ast.Constant) else "_"


COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name for each in COMMANDS.values() for option in each.params for name in option.opts + option.secondary_opts
}
SCHEMAS = [schema for whole in (recipe_schema(), study_schema()) for schema in (whole, *whole["$defs"].values())]
KEYS = {key for schema in SCHEMAS for key in schema.get("properties", {})} | {*STEPS}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize(
    ("pattern", "known"),
    [
        (r"(?<![\w-])(--[a-z][a-z0-9-]+)", OPTIONS),
        (r"hf-compress ([a-z]+)\b", COMMANDS),
        (r"hf-compress\[([a-z-]+)\]", EXTRAS),
        (r"'([a-z]\w*(?:\.[a-z_]+)+)'", KEYS),
    ],
    ids=["options", "commands", "extras", "keys"],
)
def test_what_errors_advise_is_there(pattern, known):
    said = [match for text in texts() for match in re.findall(pattern, text)]
    assert len(said) > 1
    assert not [each for each in said if not {*each.split(".")} <= {*known, "_"}]

"""The pages of reference that are made from the package itself: keys of recipes, commands, public names."""

import re
from typing import Any

import typer
from typer.cli import get_docs_for_click

import hf_compress
from hf_compress.cli import app
from hf_compress.run.recipe import recipe_schema
from hf_compress.study.config import study_schema

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
BEGINNING = """# Recipe
Every key of a recipe, from its schema (`hf-compress schema`). A string in
the place of a section is its first key (`model`, `path`, `to`).

"""


def recipe() -> str:
    """Return a page with a table for each section of recipes, in the order in which they are named; studies, too."""
    schema = recipe_schema()
    found = {"A recipe": schema}
    for section in found.copy().values():
        _collect(section, schema["$defs"], found)
    study = study_schema()
    extra = {key: value for key, value in study["properties"].items() if key not in schema["properties"]}
    found["A study"] = {"description": study.get("description", ""), "properties": extra}
    _collect(found["A study"], study["$defs"], found)
    return BEGINNING + "\n".join(
        _section(name, section) for name, section in found.items() if section.get("properties")
    )


def commands() -> str:
    """Return a page with every command, its arguments and options."""
    command = typer.main.get_command(app)
    for each in command.commands.values():
        each.short_help = each.get_short_help_str(limit=1000)  # or it is cut after a few words
    page = get_docs_for_click(obj=command, ctx=typer.Context(command), name="hf-compress", title="Command line")
    page = page.replace("[bold]Examples[/bold]", "**Examples**:")
    return re.sub(r"^  (hf-compress .*)$", r"    \1", page, flags=re.MULTILINE)


def python() -> str:
    """Return a page that mkdocstrings fills with the docstrings of the public names."""
    names = [*(name for name in hf_compress.__all__ if not name.startswith("_")), "adapters.optimum"]
    return "# Python\n\n" + "\n".join(f"::: hf_compress.{name}\n" for name in names)


def _collect(node: Any, definitions: dict[str, Any], found: dict[str, Any]) -> None:
    """Add all sections that a node of a schema refers to, depth first."""
    if isinstance(node, list):
        for each in node:
            _collect(each, definitions, found)
    elif isinstance(node, dict):
        if (name := _referred(node)) and name not in found:
            found[name] = definitions[name]
            _collect(definitions[name], definitions, found)
        for key, each in node.items():
            if key != "$defs":
                _collect(each, definitions, found)


def _referred(node: dict[str, Any]) -> str:
    return node.get("$ref", "").rpartition("/")[2]


def _section(name: str, section: dict[str, Any]) -> str:
    rows = [
        f"| `{key}` | {_kind(value)} | {_default(value)} | {_cell(value.get('description', ''))} |"
        for key, value in section["properties"].items()
    ]
    about = " ".join(section.get("description", "").split())
    return "\n".join([f"## {name}", about, "", "| key | value | default | |", "|---|---|---|---|", *rows, ""])


def _kind(node: dict[str, Any]) -> str:
    """Return in words what a key takes."""
    if name := _referred(node):
        return f"[{name}](#{name.lower()})"
    if choices := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(each) for each in choices if each.get("type") != "null"))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{each}`" for each in node.get("enum", [node.get("const")]))
    kind = node.get("type", "any")
    if kind == "array":
        return f"list of {_kind(node['items'])}" if node.get("items") else "list"
    if kind == "object" and node.get("properties"):
        ((key, value),) = node["properties"].items()
        return f"`{key}`: {_kind(value)}"
    if kind == "object" and isinstance(node.get("additionalProperties"), dict):
        return f"mapping of names to {_kind(node['additionalProperties'])}"
    return " ".join([kind, *(f"{sign} {node[bound]:,}" for bound, sign in BOUNDS.items() if bound in node)])


def _default(node: dict[str, Any]) -> str:
    value = node.get("default")
    if value is None or isinstance(value, dict | list):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())

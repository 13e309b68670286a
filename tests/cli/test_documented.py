"""Every command of README, docs and recipes is one: its options and keys are there."""

import sys
from pathlib import Path

import pytest
import typer
from documented import ROOT, in_headers, on_pages

from hf_compress import cli
from hf_compress.cli import methods

HEADERS, PAGES = in_headers(), on_pages()
ID = " ".join
QUICKSTART = (ROOT / "recipes" / "quickstart.yaml").read_text()
STUDY = "runs: {one: {student: resnet18, data: digits, steps: [finetune]}}"


@pytest.fixture
def taken(monkeypatch, tmp_path):
    """What the commands would have run: recipes and studies."""
    found = []

    def stop(recipe):
        found.append(recipe)
        raise SystemExit

    commands = sys.modules["hf_compress.cli.run"]  # as an attribute, `run` is the function
    for module, name in ((commands, "run_recipe"), (commands, "show_study"), (methods, "run_recipe")):
        monkeypatch.setattr(module, name, lambda what, *_, **options: found.append(what))
    monkeypatch.setattr(commands, "run_on", lambda machine, recipe, *_, **options: found.append(recipe))
    monkeypatch.setattr(sys.modules["hf_compress.cli.auto"], "refuse_missing", stop)
    monkeypatch.chdir(tmp_path)
    return found


def read(arguments, taken):
    """Read a command as the command line does, but call nothing that works; return the recipe or study, if any."""
    if arguments[1:] and arguments[1].endswith(".yaml"):
        Path(arguments[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments[1]).write_text(STUDY if "study" in arguments[1] else QUICKSTART)
    if arguments[0] in ("run", "auto", "prune", "distill", "quantize"):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert not stop.value.code
        return taken[-1]
    command = typer.main.get_command(cli.app).commands[arguments[0]]
    return None if "--help" in arguments else command.make_context(arguments[0], list(arguments[1:])) and None


def test_there_are_commands_to_read():
    assert len(HEADERS) > 20
    assert len(PAGES) > 15
    recipes = {command[1] for command in HEADERS if command[0] == "run"}
    assert recipes == {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - {"quickstart"}


@pytest.mark.parametrize("arguments", HEADERS + PAGES, ids=ID)
def test_a_command_has_the_options_and_keys_that_it_names(arguments, taken):
    read(arguments, taken)

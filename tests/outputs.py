"""Runs that do nothing but leave a folder, and what others put into it: for tests of what is replaced."""

import json
import os

import pytest
from reports import report

from hf_compress.ground.manifest import MANIFEST, adding, entries
from hf_compress.report.run import write_run
from hf_compress.run.folder import RunFolder
from hf_compress.run.recipe import Recipe

MINE = "years of work"


def recipe(**sections):
    steps = [{"finetune": {"epochs": 2}}]
    return Recipe.from_dict({"student": {"model": "resnet18"}, "data": "digits", "steps": steps} | sections)


def write(files):
    write_run(files, recipe().to_yaml(), report())
    (files / "figures").mkdir()
    (files / "figures" / "layers.png").write_text("drawn")
    (files / "README.md").write_text("a card")


def run(output, **options):
    with RunFolder(output, recipe(), **options) as folder:
        return folder.finished or folder.finish(write)


def interrupted(output, **options):
    with pytest.raises(KeyboardInterrupt), RunFolder(output, recipe(), **options) as folder:
        folder.units.value("first", lambda: 1)
        raise KeyboardInterrupt


def put(*names, text=MINE):
    """Return a change of a folder: files of someone else."""

    def change(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def linked(name, to):
    return lambda folder: (folder / name).symlink_to(to)


def without_manifest(folder):
    (folder / MANIFEST).unlink()


def relinked(folder):
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("report.json")


def moved_figures(folder):
    (folder / "figures").rename(folder.parent / "elsewhere")
    (folder / "figures").symlink_to(folder.parent / "elsewhere")


def exported(folder):
    with adding(folder) as new:
        (new / "model.onnx").write_text("graph")


def claims_all(folder):
    """A manifest that someone else wrote."""
    put("thesis.tex")(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../thesis.tex"] = ["0"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def contents(folder):
    """Everything in a folder, to compare; links by where they lead."""
    return {
        name: os.readlink(folder / name)
        if (folder / name).is_symlink()
        else (folder / name).read_bytes() if (folder / name).is_file() else None
        for name in entries(folder)
    }  # fmt: skip

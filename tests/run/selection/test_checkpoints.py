"""Candidates begin with a checkpoint where one can be had, and these compete first."""

from dataclasses import replace

import pytest
import torch
import yaml
from transformers import MobileNetV2ImageProcessor

from hf_compress import Recipe, compress, save
from hf_compress.ground.units import Units
from hf_compress.models.students import STUDENTS, Checkpoint, build_registered
from hf_compress.run.selection import select
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.run.selection.checkpoints import begin_with_checkpoints
from hf_compress.run.selection.halving import entrants
from hf_compress.run.selection.select import _competing

pytestmark = pytest.mark.usefixtures("costs_counted_once")
TRAINING = {"epochs": 1, "learning_rate": 3e-3}
BLUEPRINT = Blueprint([str(digit) for digit in range(10)], 32)
ABSENT = [Checkpoint(f"google/absent-{number}", 1.0, "other", width=0.5) for number in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A MobileNetV2 of width 0.25 with other classes, for larger pictures."""
    torch.manual_seed(0)
    built = build_registered("mobilenet_v2", list("abcdefghijkl"), width=0.25)
    place = tmp_path_factory.mktemp("checkpoint")
    size = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
    save(built.model, place, MobileNetV2ImageProcessor(**size))
    return str(place)


@pytest.fixture
def known(monkeypatch, folder):
    """Let the checkpoints be those that the Hub does not give, and one that is here."""
    own = {name: replace(STUDENTS.get(name), checkpoints=()) for name in STUDENTS}
    own["mobilenet_v1"] = replace(own["mobilenet_v1"], checkpoints=tuple(ABSENT))
    here = Checkpoint(folder, 0.3, "apache-2.0", width=0.25)
    own["mobilenet_v2"] = replace(own["mobilenet_v2"], checkpoints=(here,))
    monkeypatch.setattr(STUDENTS, "_entries", own)


@pytest.fixture
def built(monkeypatch):
    """The checkpoints that were asked for."""
    asked, build = [], Blueprint.build

    def record(self, candidate):
        asked.append(candidate.pretrained)
        return build(self, candidate)

    monkeypatch.setattr(Blueprint, "build", record)
    return asked


def fitting():
    return [
        Candidate(name, width, {"macs": width * (1 + number)})
        for number, name in enumerate(("mobilenet_v1", "mobilenet_v2", "resnet18"))
        for width in (0.25, 0.5)
    ]


def test_what_can_be_had_comes_first_and_the_hub_is_asked_no_more_once_it_is_out_of_reach(known, built, folder):
    """This process is offline, and has nothing in its cache."""
    lines, candidates = [], fitting()
    found = begin_with_checkpoints(candidates, 6, BLUEPRINT, lines.append)
    assert [(str(each), each.pretrained) for each in found] == [("mobilenet_v2 x0.25", folder)]
    assert built == [ABSENT[0].id, folder]
    assert (
        f"mobilenet_v2 x0.25 can begin with the weights of {folder} (0.3 M parameters, licence apache-2.0)" in lines[0]
    )
    assert "start from scratch: google/absent-0 is not cached and the Hub is out of reach" in lines[1]


def test_no_more_is_loaded_than_competes(known, built, monkeypatch, folder):
    monkeypatch.setitem(STUDENTS._entries, "another", STUDENTS.get("mobilenet_v2"))
    candidates = [*fitting(), Candidate("another", 0.25, {"macs": 0.1})]
    assert len(begin_with_checkpoints(candidates, 1, BLUEPRINT, lambda line: None)) == 1
    assert built == [ABSENT[0].id, folder]


def recipe(**student):
    budget = {"parameters": 710_000, "macs": 3e6}
    probe = {"candidates": 2, "images": 60, "epochs": 1}
    return Recipe.from_dict(
        {
            "student": {"model": "auto", "image_size": 32, "budget": budget, "probe": probe, **student},
            "data": {
                "path": "digits",
                "splits": {"train": "train[:100]", "validation": "train[300:340]", "test": "train[400:440]"},
            },
            "measure": {"batch_size": 2, "repeats": 3},
            "steps": [{"finetune": TRAINING}],
        }
    )


PUBLISH = {"to": "someone/model"}


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        ({}, True),
        ({"student": {"pretrained": False}}, False),
        ({"publish": PUBLISH}, False),
        ({"publish": PUBLISH | {"license": "mit"}}, True),
    ],
)
def test_from_scratch_where_the_recipe_says_so_or_a_licence_may_forbid_to_publish(known, change, begins):
    values = recipe(**change.get("student", {})).model_dump() | {"publish": change.get("publish")}
    candidates = fitting()
    usual = entrants(fitting(), 3)
    found = _competing(Recipe.from_dict(values), candidates, 3, BLUEPRINT, lambda line: None)
    first = "mobilenet_v2 x0.25" if begins else str(usual[0])
    assert (str(found[0]), found[0].pretrained is not None) == (first, begins)
    assert [str(each) for each in found[begins:]] == [str(each) for each in usual][: 3 - begins]


def test_a_run_probes_and_trains_from_the_checkpoint_and_says_so(known, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_compress.run.selection.select.halve", lambda competing, probe: [competing[0]])
    lines = []
    run = compress(recipe(), tmp_path / "run", log=lines.append)
    selection = run.report["selection"]
    assert selection["winner"] == {"model": "mobilenet_v2", "width": 0.25, "pretrained": folder}
    assert [row["pretrained"] for row in selection["candidates"] if "pretrained" in row] == [folder]
    assert (run.report["student"]["id"], run.report["student"]["source"]) == (folder, "folder")
    assert any(line.startswith(f"student: mobilenet_v2 x0.25, begun with {folder}, with ") for line in lines)
    saved = yaml.safe_load((run.folder / "recipe.yaml").read_text())["student"]
    assert (saved["model"], saved["width"], saved["pretrained"]) == ("mobilenet_v2", 0.25, folder)


def test_a_run_that_goes_on_takes_the_commit_that_it_began_with(tmp_path, monkeypatch):
    winner = {"model": "mobilenet_v2", "width": 1.0, "pretrained": "someone/model"}
    monkeypatch.setattr(select, "_search", lambda *arguments: {"winner": winner, "image_size": 32})
    pinned = recipe().pinned(student="abc")
    found = select.select_student(pinned, None, None, Units(tmp_path, seed=0), print)[0].student
    assert (found.pretrained, found.revision) == ("someone/model", "abc")


def test_a_candidate_has_the_weights_of_its_checkpoint_and_its_input_size(known, folder):
    candidate = Candidate("mobilenet_v2", 0.25, {}, pretrained=folder)
    first, again = (BLUEPRINT.build(candidate) for _ in range(2))
    assert first.processor.crop_size["height"] == 32 and first.label_names == BLUEPRINT.labels
    body = [name for name in first.model.state_dict() if not name.startswith("classifier")]
    assert all(torch.equal(first.model.state_dict()[name], again.model.state_dict()[name]) for name in body)

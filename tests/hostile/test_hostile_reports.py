"""Reports that were tampered with: each ends in a right card, or in one sentence that names the file and the key."""

import json
import os
import re
from html import unescape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from refusals import ends
from reports import SELECTION, report

from hf_compress.ground.errors import UsageError
from hf_compress.report.card import render_card
from hf_compress.report.gallery import write_gallery
from hf_compress.report.run import Run, write_report

MISSING = object()


def at(*path, to):
    """Return what sets the value at a path of the report, or takes it away."""

    def change(values):
        *parents, last = path
        for part in parents:
            values = values[part]
        if to is MISSING:
            del values[last]
        else:
            values[last] = to

    return change


def quality(value):
    return at("rows", 1, "quality", "accuracy", to=value), "'rows.1.quality.accuracy' cannot be"


def unselected(values):
    values["selection"] = json.loads(json.dumps(SELECTION))
    del values["selection"]["candidates"][0]["latency_ms"]


def hostile(values):
    """Text that would break Markdown, HTML and YAML wherever a name may stand."""
    text = "<script>alert(1)</script> | ![x](https://evil.example/x.png)\n---\n# {{ 7 * 7 }}\u202e"
    values["labels"] = [f"{text} {n}" for n in range(3)]
    values["data"]["path"] = values["rows"][1]["model"] = values["environment"]["processor"] = text
    values["rows"][1]["stage"] = f"1 {text}"
    values["data"]["splits"]["test"]["from"] = f"split {text}"
    values["teacher"] = {"id": text, "source": "hub", "revision": text, "license": text, "base_model": text}
    values["remarks"] = [text]


ROWS, TEST = ("rows", 1), ("data", "splits", "test")
CASES = {
    "as it was": (lambda values: None, None),
    "text that breaks pages": (hostile, None),
    "keys that nobody knows": (at("unheard_of", to={"deep": [[[1]]]}), None),
    "details of another's step": (at(*ROWS, "details", to={"mine": {"a": [1, None]}, "other": "text"}), None),
    "no figures of latency": (lambda values: [row.pop("latency") for row in values["rows"]], None),
    "a control that is null": (at("control", to=None), "'control' cannot be None"),
    "no rows": (at("rows", to=[]), "'rows' cannot be []"),
    "one row": (lambda values: values["rows"].pop(), "'rows' cannot be"),
    "rows that are a mapping": (at("rows", to={"0": {}}), "'rows' cannot be"),
    "null rows": (at("rows", to=[None, None]), "'rows.0' cannot be None"),
    "rows of text": (at("rows", to=["teacher", "1 prune"]), "'rows.0' cannot be 'teacher'"),
    "a row without stage": (at(*ROWS, "stage", to=MISSING), "it lacks the key 'rows.1.stage'"),
    "an empty stage": (at(*ROWS, "stage", to=""), "'rows.1.stage' cannot be ''"),
    "a stage that is a number": (at(*ROWS, "stage", to=1), "'rows.1.stage' cannot be 1"),
    "a model that is null": (at(*ROWS, "model", to=None), "'rows.1.model' cannot be None"),
    "no quality": (at(*ROWS, "quality", to=MISSING), "it lacks the key 'rows.1.quality'"),
    "a quality that is a list": (at(*ROWS, "quality", to=[0.9]), "'rows.1.quality' cannot be"),
    "no quality anywhere": (lambda values: [row["quality"].clear() for row in values["rows"]], "no row has a quality"),
    "an accuracy of text": quality("0.9"),
    "an accuracy of nothing": quality(None),
    "an accuracy that is true": quality(True),
    "an accuracy of 17": quality(17),
    "an accuracy of -2": quality(-2),
    "an accuracy of 10^300": quality(1e300),
    "an accuracy that is no number": (at(*ROWS, "quality", "accuracy", to=float("nan")), "it holds NaN"),
    "an infinite accuracy": (at(*ROWS, "quality", "accuracy", to=float("inf")), "it holds Infinity"),
    "no cost": (at(*ROWS, "cost", to=MISSING), "it lacks the key 'rows.1.cost'"),
    "no parameters": (at(*ROWS, "cost", "parameters", to=0), "'rows.1.cost.parameters' cannot be 0"),
    "negative MACs": (at(*ROWS, "cost", "macs", to=-1), "'rows.1.cost.macs' cannot be -1"),
    "10^30 bytes": (at(*ROWS, "cost", "bytes", to=10**30), "'rows.1.cost.bytes' cannot be"),
    "a latency of 0": (at(*ROWS, "latency", "batch_1", "p50_ms", to=0), "p50_ms' cannot be 0"),
    "a latency without median": (at(*ROWS, "latency", "batch_1", to={"p95_ms": 1.0}), "batch_1.p50_ms'"),
    "latencies of other batches": (at(*ROWS, "latency", to={"batch_2": {"p50_ms": 1, "p95_ms": 1}}), "batch sizes"),
    "a batch of another name": (at(*ROWS, "latency", to={"<b>": {"p50_ms": 1.0, "p95_ms": 1.0}}), "'rows.1.latency"),
    "a label too few": (lambda values: values["labels"].pop(), "'rows.0.classes' does not count"),
    "no labels": (at("labels", to=[]), "'rows.0.classes' does not count"),
    "labels of numbers": (at("labels", to=[1, 2, 3]), "'labels.0' cannot be 1"),
    "a class too few": (lambda values: values["rows"][1]["classes"]["correct"].pop(), "'rows.1.classes' does not"),
    "more correct than there are": (at(*ROWS, "classes", "correct", 0, to=11), "'rows.1.classes' has more correct"),
    "a class that is not there": (at(*ROWS, "classes", "confused", to=[[0, 3, 1]]), "names a class beyond"),
    "a class below 0": (at(*ROWS, "classes", "confused", to=[[0, -1, 1]]), "'rows.1.classes.confused.0.1' cannot be"),
    "a confusion of two": (at(*ROWS, "classes", "confused", to=[[0, 1]]), "'rows.1.classes.confused.0' cannot be"),
    "a class of a detector too many": (at(*ROWS, "class_ap", to=[0.5] * 4), "'rows.1.class_ap' names a class beyond"),
    "no bins": (at(*ROWS, "reliability", "bins", to=[]), "'rows.1.reliability.bins' cannot be []"),
    "rounds that are a number": (at(*ROWS, "details", "rounds", to=3), "'rows.1.details.rounds' cannot be 3"),
    "a round without verdict": (at(*ROWS, "details", "rounds", 0, "kept", to=MISSING), "details.rounds.0.kept'"),
    "rounds without a start": (at(*ROWS, "details", "unpruned_validation_accuracy", to=MISSING), "rounds need"),
    "epochs that are text": (at(*ROWS, "details", to={"epochs": "three"}), "'rows.1.details.epochs' cannot be"),
    "a loss of text": (at(*ROWS, "details", "rounds", 0, "epochs", 0, "training_loss", to="a"), "'rows.1"),
    "an epoch of quality 9": (at(*ROWS, "details", "rounds", 0, "epochs", 0, "validation_accuracy", to=9), "no score"),
    "a best epoch after the last": (at(*ROWS, "details", "rounds", 0, "best_epoch", to=3), "best_epoch 3 is none of"),
    "layers rewritten by nobody": (at(*ROWS, "details", to={"rewritten_layers": {"a": {}}}), "need 'logits_error'"),
    "a layer of one width": (at("layers", "net.conv1", "width", to=[64]), "'layers.net.conv1.width' cannot be"),
    "a layer of width 0": (at("layers", "net.conv1", "width", to=[0, 1]), "'layers.net.conv1.width.0' cannot be 0"),
    "a layer half known": (at("layers", "net.conv1", "sparsity", to=[0.0, None]), "null together"),
    "a candidate without its cost": (unselected, "candidate 0 was probed, but has no 'latency_ms'"),
    "a teacher of text": (at("teacher", to="resnet18"), "'teacher.0' cannot be 'resnet18'"),
    "a base model that is a list": (at("teacher", "base_model", to=["a/b"]), "base_model' cannot be"),
    "no data": (at("data", to=MISSING), "it lacks the key 'data'"),
    "no test images": (at(*TEST, "images", to=0), "'data.splits' cannot be"),
    "no test split": (at(*TEST, to=MISSING), "there is no split 'test'"),
    "more without label than there are": (at(*TEST, "unlabelled_images", to=31), "more unlabelled_images than images"),
    "an unknown task": (at("task", to="speech"), "'task' cannot be 'speech'"),
    "another time": (at("created", to="yesterday"), "'created' cannot be 'yesterday'"),
    "an environment of lists": (at("environment", "torch", to=["2.0"]), "'torch' is no single value"),
    "no processor": (at("environment", "processor", to=MISSING), "it lacks the key 'environment.processor'"),
    "a study": (lambda values: values.update(kind="study", runs=[]), "holds a study"),
}  # fmt: skip


WHOLE = json.dumps(report())
TEXTS = {
    "a list": ("[1, 2]", "it is no mapping"),
    "nothing": ("{}", "it lacks the key 'created'"),
    "null": ("null", "it is no mapping"),
    "a number of 5000 digits": ('{"created": ' + "9" * 5000 + "}", "no report"),
    "a float beyond all": ('{"created": 1e999}', "it holds '1e999', which is too large"),
    "nested 100,000 levels deep": ('{"a":' * 100_000, "nested too deeply"),
    "half a report": (WHOLE[:1000], "no report"),
    "bytes": (b"\xff\xfe\x00", "it is no text in UTF-8"),
    "an empty file": (b"", "no report"),
}  # fmt: skip


def written(folder, change):
    """Write a report that was changed, or a text in place of one."""
    values = report()
    if callable(change):
        change(values)
    content = json.dumps(values) if callable(change) else change
    folder.mkdir(parents=True)
    (folder / "report.json").write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("case", [*CASES, *TEXTS])
def test_a_report_gives_its_card_or_is_refused(case, fenced):
    change, outcome = (CASES | TEXTS)[case]
    written(fenced / "run", change)
    card = ends(lambda: render_card(fenced / "run"), outcome)
    if card is None:
        return
    assert card.data.model_name
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "<script" not in page
    assert 'evil.example/x.png"' not in page
    assert page.count("<h1>") == 1


def test_the_refusals_name_the_file(fenced):
    for name, (change, says) in (CASES | TEXTS).items():
        if says and name != "a study":
            written(fenced / name, change)
            with pytest.raises(UsageError, match=rf"'{re.escape(str(fenced / name))}/report\.json' is no report"):
                Run.open(fenced / name)


def test_one_page_shows_the_good_runs_and_names_the_bad(fenced):
    for name, (change, _) in (CASES | TEXTS).items():
        written(fenced / "runs" / name, change)
    os.mkfifo(fenced / "runs" / "as it was" / "figures")
    good = [name for name, (_, says) in (CASES | TEXTS).items() if says is None]
    bad = [name for name, (_, says) in (CASES | TEXTS).items() if says and name != "a study"]
    assert write_gallery(str(fenced / "runs"), fenced / "cards.html") == len(good)
    page, _, rest = unescape((fenced / "cards.html").read_text()).partition("<h2>Left out</h2>")
    assert all(f">{name}</a>" in page for name in good)
    assert all(f"<li>{name}: " in rest for name in bad)
    assert rest.count("<li>") == len(bad) >= 29


@pytest.mark.parametrize(("place", "says"), [("pipe", "not a run folder"), ("zero", "not a run folder")])
def test_a_pipe_or_an_endless_file_is_no_report(place, says, fenced):
    (fenced / "run").mkdir()
    if place == "pipe":
        os.mkfifo(fenced / "run" / "report.json")
    else:
        (fenced / "run" / "report.json").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=says):
        render_card(fenced / "run")


def test_what_a_run_writes_is_checked_as_well(tmp_path):
    broken = report()
    del broken["rows"][1]["cost"]
    with pytest.raises(UsageError, match=r"it lacks the key 'rows\.1\.cost'"):
        write_report(tmp_path / "report.json", broken)
    assert not (tmp_path / "report.json").exists()


def test_what_a_run_may_add_is_read(tmp_path):
    more = report()
    more["data"]["left_out"] = [{"reason": "no image", "count": 2, "example": "a.txt"}]
    more["data"]["leaks"] = [{"splits": ["train", "test"], "images": 3, "dropped": 0, "example": "cat/1.png"}]
    more["data"]["conflicting_labels"] = [{"split": "train", "images": 2, "example": "a.png", "labels": ["a", "b"]}]
    missed = {"what": "macs", "asked": 0.7, "reached": 0.5, "reason": "the floor"}
    more["rows"][1].setdefault("details", {})["missed"] = missed
    difference = {"metric": "accuracy", "against": "teacher", "difference": -0.1, "low": -0.2, "high": 0.0}
    more["rows"][1]["differences"] = [difference]
    write_report(tmp_path / "report.json", more)
    assert Run.open(tmp_path).report == more


def test_the_shipped_report_is_one():
    assert Run.open(Path(__file__).parents[2] / "model_cards" / "quickstart").report["seed"] == 0

"""Recipes that a stranger wrote: the text, the values, the keys that are set, and the names of files and runs."""

import math
import os
from typing import get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from refusals import ends, refusal
from reports import report

from hf_compress.report.run import write_report
from hf_compress.run.folder import RunFolder
from hf_compress.run.recipe import Recipe
from hf_compress.sections.base import Section, validate
from hf_compress.sections.values import read_recipe
from hf_compress.steps import STEPS
from hf_compress.study.config import Study

PLAIN = "teacher: some/model\ndata: digits\nsteps: [distill]\n"


def bomb(levels: int, first: str, next_: str) -> str:
    """Anchors, each of which names the one before it ten times."""
    lines = (f"a{n}: &a{n} {next_.replace('?', ', '.join([f'*a{n - 1}'] * 10))}\n" for n in range(1, levels))
    return f"a0: &a0 {first}\n" + "".join(lines) + PLAIN


TEXTS = {
    "billion laughs": (bomb(30, "[lol, lol]", "[?]"), "more than 10,000 values, its aliases written out"),
    "billion laughs of merges": (bomb(30, "{x: 1}", "{<<: [?]}"), "more than 10,000 values"),
    "many values": (PLAIN + "x: [" + "1,\n" * 11_000 + "]", "more than 10,000 values"),
    "many characters": ("#" * 300_000, "longer than 200,000 characters"),
    "deep lists": ("[" * 50_000, "nested more than 50 levels"),
    "deep mappings": ("{a: " * 40_000, "nested more than 50 levels"),
    "deep blocks": ("- " * 50_000, "nested more than 50 levels"),
    "deep question marks": ("? " * 50_000, "nested more than 50 levels"),
    "deep by aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 500)),
        "levels deep, its aliases written out",
    ),
    "an anchor in itself": (PLAIN + "x: &x [*x]", "levels deep, its aliases written out"),
    "an anchor in itself, by key": (PLAIN + "x: &x {a: *x}", "levels deep, its aliases written out"),
    "an unknown anchor": ("teacher: *nobody", "undefined alias"),
    "good anchors": ("steps:\n- distill: &d {epochs: 3}\n- finetune: *d\nteacher: a/b\ndata: digits", None),
    "good merges": (
        "steps:\n- distill: &d {epochs: 3, batch_size: 8}\n- distill: {<<: *d, epochs: 4}\nteacher: a/b\ndata: digits",
        None,
    ),
    "duplicate keys": (PLAIN + "data: elsewhere", "line 4 has the key 'data' a second time"),
    "duplicate keys inside": (PLAIN + "measure: {threads: 1, threads: 2}", "the key 'threads' a second time"),
    "empty": ("", "a recipe is a mapping"),
    "comments alone": ("# nothing\n", "a recipe is a mapping"),
    "null": ("null", "a recipe is a mapping"),
    "a list": ("[teacher, data]", "a recipe is a mapping"),
    "a word": ("quickstart", "a recipe is a mapping"),
    "a number": ("42", "a recipe is a mapping"),
    "two documents": (PLAIN + "---\n" + PLAIN, "expected a single document"),
    "bytes": (bytes(range(256)), "not valid YAML"),
    "a JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not valid YAML"),
    "NUL": ("teacher: a\0b", "not valid YAML"),
    "UTF-16": (PLAIN.encode("utf-16"), "not valid YAML"),
    "a byte-order mark": (b"\xef\xbb\xbf" + PLAIN.encode(), None),
    "CRLF": (PLAIN.replace("\n", "\r\n"), None),
    "CR": (PLAIN.replace("\n", "\r"), None),
    "tabs": ("teacher: a/b\ndata:\n\tpath: digits", "not valid YAML"),
    "JSON": ('{"teacher": "a/b", "data": "digits", "steps": [{"distill": {"learning_rate": 1e-3}}]}', None),
    "a Python object": (PLAIN + "x: !!python/object/apply:os.system ['touch owned']", "!!python/object/apply"),
    "a Python name": (PLAIN + "x: !!python/name:os.system", "!!python/name"),
    "a Python module": (PLAIN + "x: !!python/module:os", "!!python/module"),
    "an own tag": (PLAIN + "x: !include /etc/passwd", "tag '!include'"),
    "a set": (PLAIN + "seed: !!set {1, 2}", "tag '!!set'"),
    "binary": (PLAIN + "seed: !!binary aGVsbG8=", "tag '!!binary'"),
    "a tag that does not fit": (PLAIN + "seed: !!bool maybe", "not valid YAML"),
    "a number that is none": (PLAIN + "seed: !!int many", "not valid YAML"),
    "a date": (PLAIN + "seed: 2024-02-30", "'seed' cannot be '2024-02-30'"),
    "a number of 5,000 digits": (PLAIN + f"seed: {'9' * 5000}", "more than 100 digits"),
    "a number of 5,000 hexadecimals": (PLAIN + f"seed: 0x{'f' * 5000}", "more than 100 digits"),
    "a number in base 60": (PLAIN + f"seed: 1{':59' * 5000}", "more than 100 digits"),
    "a list as a key": (PLAIN + "? [a, b]\n: 1", "unhashable key"),
    "a number as a key": (PLAIN + "1: 2", "keys should be strings"),
    "null as a key": (PLAIN + "null: 2", "keys should be strings"),
    "a long key": (PLAIN + f"? {'k' * 50_000}\n: 1", "unknown key"),
    "a long value": (PLAIN + f"seed: {'k' * 50_000}", "'seed' cannot be"),
    "a line break in a key": (PLAIN + '"a\\nb\\x1b[2J": 1', "unknown key"),
    "right to left": (PLAIN + '"\\u202etxt": 1', "unknown key"),
    "emoji and Hebrew": ("teacher: 'מודל/🦉'\ndata: 'פרחים 🌸'\nsteps: [distill]", None),
    "a lone surrogate": (PLAIN + 'measure: {runtimes: ["\\ud800"]}', "runtimes"),
}

NUMBERS = (math.nan, math.inf, -math.inf, 1e308, -1e308, 10**300, -(10**300), -1, -(10**18), True, False, "many")
WORDS = (1, 1.5, 2, "maybe", [], {}, [1], ["a"], [True], {"a": 1}, [["a"]], {"no such key": 1}, "no\nsuch\x1bword")
EVERYTHING = (*NUMBERS, *WORDS)


def sections(root: type[BaseModel]) -> list[type[BaseModel]]:
    """A section and those inside it."""
    found = [root]
    for section in found:
        annotations = [field.annotation for field in section.model_fields.values()]
        for annotation in annotations:
            annotations += get_args(annotation)
            if isinstance(annotation, type) and issubclass(annotation, Section) and annotation not in found:
                found.append(annotation)
    return found


SECTIONS = {
    section.__name__: section
    for root in (Recipe, Study, *(STEPS.get(name).Config for name in STEPS))
    for section in sections(root)
}
NEEDED = {
    "DeploySection": {"to": "onnx"},
    "Recipe": {"teacher": "a/b", "student": "resnet18", "data": "digits", "steps": ["distill"]},
    "Study": {"runs": {"a": {"student": "resnet18"}}, "teacher": "a/b", "data": "digits", "steps": ["distill"]},
    "TeacherSection": {"model": "a/b"},
    "StudentSection": {"model": "a/b"},
    "EnsembleSection": {"ensemble": ["a/b", "c/d"]},
    "BudgetSection": {"macs": 1},
    "DataSection": {"path": "digits"},
    "UnlabelledSection": {"path": "digits"},
    "PublishSection": {"to": "user/name"},
    "LossTerm": {"loss": "kl"},
    "PruningTarget": {"sparsity": 0.5},
    "RewriteConfig": {"kind": "separable"},
    "RewriteBudget": {"macs": 0.5},
}
KEYS = [(name, key) for name, section in SECTIONS.items() for key in section.model_fields]
ALL_MUST_GO = {  # whatever the key, none of these may be taken for a number
    int: (math.nan, math.inf, -math.inf, 1.5, 1e308, 10**300, -(10**18), True, False, "many", [], {}, [1]),
    float: (math.nan, math.inf, -math.inf, -1e308, -(10**300), True, False, "many", [], {}, [1]),
    bool: (math.nan, 1.5, 2, "maybe", [], {}, [True]),
    str: (1, 1.5, math.nan, True, False, [], {}, ["a"]),
}

ASSIGNMENTS = {
    "two dots": ("a..b", 1, "a part of the key is empty"),
    "a dot first": (".a", 1, "a part of the key is empty"),
    "a dot last": ("data.", 1, "a part of the key is empty"),
    "a dot alone": (".", 1, "a part of the key is empty"),
    "nothing": ("", 1, "a part of the key is empty"),
    "a number in a mapping": ("data.0.path", 1, "unknown key 'data.0'"),
    "a number far out": ("steps.99.epochs", 1, "no step '99'"),
    "a number further out": (f"steps.{'9' * 6000}.epochs", 1, "no step"),
    "a negative number": ("steps.-1.epochs", 1, "no step '-1'"),
    "a superscript": ("steps.².epochs", 1, "no step '²'"),
    "an Arabic digit": ("steps.\u0660.epochs", 1, "no step '\u0660'"),
    "an unknown step": ("steps.prune.amount", 0.5, "no step 'prune'"),
    "steps as a word": ("steps", "distill", "'steps' cannot be 'distill'"),
    "steps as a mapping": ("steps", {"distill": {}}, "'steps' cannot be"),
    "no step": ("steps", [], "'steps' cannot be []"),
    "a step of numbers": ("steps", [1, 2], "'steps.0' must be one step name"),
    "a step of two": ("steps", [{"distill": {}, "finetune": {}}], "'steps.0' must be one step name"),
    "a step's options as a number": ("steps.0.distill", 5, "'steps.0.distill'"),
    "a step's options as a list": ("steps.0.distill", [1], "'steps.0.distill'"),
    "a step that is a path": ("steps.0", "../../etc/passwd", "unknown step '../../etc/passwd'"),
    "a step that is null": ("steps.0", None, "'steps.0' must be one step name"),
    "into a single value": ("data.path.a.b", 1, "'data.path'"),
    "into a number in a list": ("measure.runtimes.0.a", 1, "'measure.runtimes.0'"),
    "a mapping over a model": ("teacher.model.a", 1, "'teacher.model'"),
    "a long key": (".".join("a" * 5000), 1, "levels deep"),
    "a prototype": ("__class__.__init__", 1, "unknown key '__class__'"),
    "a private attribute": ("model_config.extra", "allow", "unknown key 'model_config'"),
    "a model that is null": ("teacher.model", None, "'teacher.model' is missing"),
    "an importance that is a path": ("steps.0", {"prune": {"importance": "../x"}}, "unknown importance '../x'"),
    "a loss that is a path": ("steps.0.distill.loss", "/etc/passwd", "unknown distillation loss '/etc/passwd'"),
    "a rewrite that is a path": ("steps.0", {"rewrite": {"kind": "../x"}}, "unknown rewrite '../x'"),
    "a pattern of 20 digits": (
        "steps.0",
        {"prune": {"granularity": "n:m", "pattern": "9" * 20 + ":1"}},
        "is not n:m",
    ),
}
TARGETS = [
    "..", "../..", "a/../b", "../a/b", "a/b/c", "/etc/passwd", "a/..", "a/b\n", "a b/c", "", "a/", "/a", "a/b.git",
    "https://huggingface.co/a/b", "a\\b", "a/\u202eb", "a/\x1b[2J",
]  # fmt: skip
RUNS = {
    "a path": (["../evil"], "'runs.../evil' names a folder"),
    "a slash": (["a/b"], "names a folder"),
    "absolute": (["/tmp"], "names a folder"),
    "dots": ([".."], "names a folder"),
    "nothing": ([""], "names a folder"),
    "capitals": (["A"], "names a folder"),
    "a line break": (["a\nb"], "names a folder"),
    "a line break last": (["a\n"], "names a folder"),
    "a space": (["a b"], "names a folder"),
    "emoji": (["🦉"], "names a folder"),
    "a number": ([7], "runs"),
    "too many": ([f"r{n}" for n in range(300)], "256"),
}
OUTPUTS = {
    "a file": ("file", "exists and is not a run folder"),
    "behind a file": ("file/run", "cannot be written"),
    "a folder of files": ("full", "exists and is not a run folder"),
    "a link to a folder of files": ("to-full", "exists and is not a run folder"),
    "a link in a circle": ("circle", "exists and is not a run folder"),
    "no place for a folder": ("/proc/run", "cannot be written"),
    "a name of 300 characters": ("n" * 300, "cannot be written"),
    "a name of 250 characters, too long with its suffix": ("n" * 250, "cannot be written"),
    "a path of 10,000 characters": ("p/" * 5000, "cannot be written"),
    "NUL": ("a\0b", "cannot be written"),
    "the root": ("/", "choose another --output"),
    "the folder itself": (".", "is the current folder"),
    "work that is not ours": ("theirs", "is not of an unfinished run"),
    "work behind a link": ("linked", "is not of an unfinished run"),
    "a user who is not there": ("~nobody-of-that-name/run", None),
    "a line break": ("a\nb", None),
    "an empty folder": ("empty", None),
    "a link to an empty folder": ("to-empty", None),
    "a link to nothing": ("to-nothing", None),
    "emoji, right to left": ("🦉\u202e", None),
}
PRODUCTS = {
    "rounds": ({"steps.0": {"prune": {"amount": 1e-9}}}, "up to 900,000,000 rounds (0.9 / 1e-09)"),
    "rounds to a target": (
        {"steps.0": {"prune": {"amount": 1e-4, "target": {"macs": 0.9}}}},
        "'steps.0.prune.amount: 0.0001' makes up to 9,000 rounds",
    ),
    "rounds of which there is one": ({"steps.0": {"prune": {"amount": 1e-9, "iterative": False}}}, None),
    "epochs of rounds": (
        {"steps.0": {"prune": {"amount": 0.001, "recovery": {"epochs": 100_000}}}},
        "90,000,000 passes over the training images in up to 900 rounds",
    ),
    "repeats of models": (
        {"measure.repeats": 100_000, "steps": ["distill"] * 10},
        "2,400,000 timed passes (12 models, 2 batch sizes, runtimes: 1)",
    ),
    "repeats of runtimes": (
        {"measure": {"repeats": 100_000, "runtimes": ["eager", "compile", "onnxruntime"]}},
        "1,800,000 timed passes (3 models, 2 batch sizes, runtimes: 3)",
    ),
    "an ensemble": ({"teacher": {"ensemble": ["a/b"] * 65}, "student": "c/d"}, "'teacher.ensemble' names 65 models"),
    "a chain": ({"assistants": ["a/b"] * 65, "student": "c/d"}, "'assistants' names 65 models"),
    "steps": ({"steps": ["distill"] * 65}, "'steps' has 65 steps"),
    "views": ({"data.views": 10**9, "data.augmentation": "light"}, "'data.views' cannot be 1000000000"),
    "runs of seeds": (
        {"runs": {f"r{n}": {} for n in range(200)}, "seeds": list(range(6))},
        "has 1,200 runs (200 with 6",
    ),
}
CASES = [*TEXTS, *KEYS, *ASSIGNMENTS, *TARGETS, *RUNS, *OUTPUTS, *PRODUCTS]


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_is_a_recipe_or_refused(case, fenced):
    text, says = TEXTS[case]
    (fenced / "recipe.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    recipe = ends(lambda: Recipe.load("recipe.yaml"), says)
    assert recipe is None or Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
    assert os.listdir(fenced) == ["recipe.yaml"]


def test_anchors_and_merges_give_what_they_stand_for(tmp_path):
    for case, epochs in (("good anchors", 3), ("good merges", 4)):
        (tmp_path / "recipe.yaml").write_text(TEXTS[case][0])
        (_, second) = [step for each in Recipe.load(tmp_path / "recipe.yaml").steps for step in each.values()]
        assert second.epochs == epochs
    assert second.batch_size == 8


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_value_of_another_type_is_refused_and_its_key_named(name, key):
    section = SECTIONS[name]
    annotation = section.model_fields[key].annotation
    choices = () if get_origin(annotation) in (list, dict) else get_args(annotation)
    kinds = [kind for kind in ALL_MUST_GO if kind in (annotation, *choices)]
    wrong = set.intersection(*({repr(value) for value in ALL_MUST_GO[kind]} for kind in kinds)) if kinds else set()
    base = {other: value for other, value in NEEDED.get(name, {}).items() if other != key}
    for value in EVERYTHING:
        try:
            validate(section, base | {key: value})
        except Exception:
            assert f"{key}" in refusal(lambda value=value: validate(section, base | {key: value}))
        else:
            assert repr(value) not in wrong


@pytest.mark.parametrize("case", ASSIGNMENTS)
def test_a_key_that_is_set_exists(case):
    key, value, says = ASSIGNMENTS[case]
    values = {"teacher": "a/b", "data": "digits", "steps": ["distill"], "measure": {"runtimes": ["eager"]}}
    ends(lambda: Recipe.from_dict(values, {key: value}), says)


@pytest.mark.parametrize("case", PRODUCTS)
def test_what_is_too_much_together_is_refused(case):
    changes, says = PRODUCTS[case]
    values = {"teacher": "a/b", "data": "digits", "steps": ["distill"]}
    if "runs" in changes:
        ends(lambda: Study.from_dict(values | changes), says)
    else:
        ends(lambda: Recipe.from_dict(values, changes), says)


@pytest.mark.parametrize("target", TARGETS)
def test_a_repository_is_no_path(target):
    values = {"teacher": "a/b", "data": "digits", "steps": ["distill"], "publish": {"to": target}}
    assert "'publish.to'" in refusal(lambda: Recipe.from_dict(values))


@pytest.mark.parametrize("case", RUNS)
def test_a_run_of_a_study_is_a_plain_folder(case):
    names, says = RUNS[case]
    values = {"teacher": "a/b", "data": "digits", "steps": ["distill"]}
    ends(lambda: Study.from_dict(values | {"runs": {name: {"student": "resnet18"} for name in names}}), says)


def test_runs_that_need_each_other_many_times_over_take_no_longer():
    """Without care, each would be looked at once for every way that leads to it."""
    runs = {f"r{n}": {"teacher": {"ensemble": [{"run": f"r{n - 1}"}, {"run": f"r{n - 2}"}]}} for n in range(2, 40)}
    first = {name: {"teacher": "a/b"} for name in ("r0", "r1")}
    study = Study.from_dict({"data": "digits", "student": "resnet18", "steps": ["distill"], "runs": runs | first})
    assert study.order()[0] == "r1" or study.order()[0] == "r0"
    assert study.order()[-1] == "r39"


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_run_folder_is_made_where_asked_or_not_at_all(case, fenced):
    output, says = OUTPUTS[case]
    for folder in ("full", "empty", "theirs.partial"):
        (fenced / folder).mkdir()
    for file in ("file", "full/thesis.tex", "theirs.partial/thesis.tex"):
        (fenced / file).write_text("years of work")
    for link, to in {"to-full": "full", "to-empty": "empty", "to-nothing": "new", "circle": "circle"}.items():
        (fenced / link).symlink_to(to)
    (fenced / "linked.partial").symlink_to("full")
    before = sorted(fenced.rglob("*"))

    def make():
        recipe = Recipe.from_dict({"teacher": "a/b", "data": "digits", "steps": ["distill"]})
        with RunFolder(output, recipe, overwrite=True) as folder:
            return folder.finish(lambda files: write_report(files / "report.json", report()))

    run = ends(make, says)
    for file in ("file", "full/thesis.tex", "theirs.partial/thesis.tex"):
        assert (fenced / file).read_text() == "years of work"
    new = {place for place in fenced.rglob("*") if not place.is_symlink()} - set(before)
    if says is None:
        assert (run.folder / "report.json").is_file()
        assert not [place for place in new if place.suffix == ".partial"]
    else:
        assert not new


@pytest.mark.parametrize("source", ["n" * 5000, "../../../etc/passwd", "a\0b", "~nobody/x", "", ".", "/", "/dev/null"])
def test_a_source_that_is_no_recipe(source):
    refusal(lambda: Recipe.from_dict(read_recipe(source)))

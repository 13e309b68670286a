"""The commands of README and docs do what they say: each is run in small, or a test is named that runs the like."""

import json
import re
from collections import defaultdict

import cache_of_hub
import pytest
import yaml
from documented import ROOT, in_headers, on_pages
from PIL import Image
from sklearn.datasets import load_digits

from hf_compress import cli
from hf_compress.auto import running
from hf_compress.models.students import STUDENTS

MEASURE = {"batch_size": 2, "repeats": 3}
FEW = {"train": "train[:60]", "validation": "train[60:80]", "test": "train[80:100]"}
QUICKSTART = {
    "teacher": {
        "model": "resnet18",
        "width": 0.25,
        "image_size": 32,
        "finetune": {"epochs": 3, "learning_rate": 3e-3},
    },
    "student.width": 0.125,
    "data.splits": {"train": "train[:200]", "validation": "train[200:240]", "test": "train[240:280]"},
    "steps.distill.epochs": 1,
    "steps.prune": {"target": {"parameters": 0.7}, "iterative": False, "recovery": {"epochs": 1}},
    "measure": MEASURE,
}
SHARED = {"data": {"path": "digits", "splits": FEW}, "measure": MEASURE}
LEARNER = {"model": "resnet18", "width": 0.125}
FILES = {
    "my-recipe.yaml": SHARED
    | {"teacher": "runs/quickstart", "student": LEARNER, "steps": [{"distill": {"epochs": 1}}]},
    "my-study.yaml": SHARED
    | {"image_size": 16, "training": {"epochs": 1}, "runs": {"one": {"student": LEARNER, "steps": ["finetune"]}}},
    "space.yaml": {
        "macs": [0, 0.5],
        "importance": ["l1"],
        "blocks": [0],
        "width": [1],
        "image_size": [1],
        "students": [],
    },
}
FEWER = {  # what makes a command small, by its first word, or by two of its words
    "auto": {"data.splits": FEW, "measure": MEASURE},
    "prune": {"data.splits": FEW, "measure": MEASURE, "steps.prune.amount": 0.5, "steps.prune.recovery.epochs": 1},
    "distill": {"data.splits": FEW, "measure": MEASURE, "steps.distill.epochs": 1},
    "quantize": {
        "data.splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "measure": MEASURE,
        "steps.quantize.epochs": 1,
    },
    "--student auto": {"student.probe": {"candidates": 2, "images": 50, "epochs": 1}},
}
STANDS_IN = (
    (r"--model runs/small", "--model runs/quickstart"),
    (r"runs/(phone|mobile-int8)", "runs/quickstart"),
    (r"runs/auto/front/03", "runs/auto/front/01"),
    (r"/shared/", ""),
    (r"latency_ms=\d+", "latency_ms=1000"),  # however busy the machine
)
UNRUN = {  # by a part of the command: the test that runs the like
    "--faster": "auto/test_find_best.py::test_the_command_searches_trains_and_two_of_one_seed_are_alike",
    "--on l4x1": "hub/test_jobs.py::test_a_job_is_started_left_by_ctrl_c_and_watched_to_its_end",
    "--to user/small": "hub/test_publish.py::test_one_commit_holds_the_folder_and_a_card_with_licence_and_origin",
    "--to user/small-int8": "hub/test_one_file.py::test_the_file_goes_to_the_hub_in_one_commit",
    "--private": "hub/test_publish.py::test_a_private_repository_is_private",
    "--create-pr": "hub/test_publish.py::test_a_pull_request_to_somebody_elses_model",
    "run quickstart": "cli/test_page_commands.py::place",
    "run auto-student": "cli/test_header_commands.py::test_the_command_runs",
    "run distill-mse": "cli/test_header_commands.py::test_the_command_runs",
    "run distilled-imagenette": "cli/test_header_commands.py::test_the_command_runs",
    "run prune-channels-mobile": "cli/test_header_commands.py::test_the_command_runs",
    "run prune-iterative-l1": "cli/test_header_commands.py::test_the_command_runs",
}
WRITTEN = [command for command in in_headers() if command[0] != "run"] + on_pages()


def is_in(part, said):
    return f" {part} " in f" {said} "


def in_small(said):
    """Return the arguments of a command on small stand-ins, without what FEWER sets."""
    for pattern, replacement in STANDS_IN:
        said = re.sub(pattern, replacement, said)
    return said


def stories():
    """Return the commands that are run, each behind those that it needs, by what they are about."""
    found = defaultdict(dict)
    for said in map(" ".join, WRITTEN):
        if not any(is_in(part, said) for part in UNRUN):
            about = next((key for key in ("my-recipe", "my-study", "runs/auto", "students") if key in said), said)
            found[in_small(about)][in_small(said)] = None
    return {about: list(commands) for about, commands in found.items()}


STORIES = stories()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos, a picture, recipes, and the run folder of the pages; and the Hub's cache."""
    folder = tmp_path_factory.mktemp("place")
    digits = load_digits()
    for number in range(90):
        photo = folder / "photos" / str(digits.target[number]) / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype("uint8")).save(photo)
    Image.open(photo).save(folder / "photo.jpg")
    for name, values in FILES.items():
        (folder / name).write_text(yaml.safe_dump(values))
    teacher = cache_of_hub.registered("resnet18", 0.25, [str(name) for name in digits.target_names])
    cache_of_hub.saved(teacher, folder / "runs" / "teacher")
    models = cache_of_hub.fill()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ended(["run", "quickstart", "--output", "runs/quickstart", "--overwrite", *sets(QUICKSTART)])
    yield folder
    cache_of_hub.empty(models)


def sets(values):
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def ended(arguments):
    """Run a command that ends well."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert not stop.value.code, arguments


def target(words):
    """Return the run folder that a command makes; None where it makes none."""
    if words[0] in ("prune", "distill", "quantize"):
        return words[-1]
    if words[0] in ("run", "auto"):
        return words[words.index("--output") + 1] if "--output" in words else f"runs/{words[1].removesuffix('.yaml')}"


@pytest.mark.long
@pytest.mark.parametrize("about", STORIES, ids=str)
def test_the_commands_run(about, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(running, "EPOCHS", 1)
    if "executorch" in about:
        pytest.importorskip("executorch")
    if about in ("students", "my-recipe"):  # few architectures compete
        few = {name: STUDENTS.get(name) for name in ("mobilenet_v2", "resnet18")}
        monkeypatch.setattr(STUDENTS, "_entries", few)
    for said in STORIES[about]:
        words, made = said.split(), target(said.split())
        fewer = [word for part, values in FEWER.items() if is_in(part, said) for word in sets(values)]
        if words[0] == "auto":
            fewer += ["--space", "space.yaml", "--candidates", "2"]
        if made and (place / made).exists() and "--resume" not in words:
            fewer.append("--overwrite")
        ended([*words, *fewer])
        out = capsys.readouterr().out
        assert made in out and (place / made / "report.json").is_file() if made else out.strip()


def test_what_is_not_run_is_run_by_another_test():
    headers = [" ".join(command) for command in in_headers()]
    for part, test in UNRUN.items():
        file, name = test.split("::")
        assert any(is_in(part, " ".join(command)) for command in on_pages()), part
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
        assert "header" not in file or any(said.startswith(part) for said in headers), part
